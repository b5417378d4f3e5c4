// An independent vSphere to test against: the simulator package of govmomi, with a guest that is played.
//
// usage: vcsim [-esx] [-no-drs] [-guest play|silent|no-address|off]
//
// Prints one line of JSON (url, thumbprints of its certificate) once it listens, and ends when its standard input does.
// When a VM that carries guestinfo.vic.config powers on, the guest is played by writing the status keys as the
// appliance would.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	keyConfig = "guestinfo.vic.config"
	keyStatus = "guestinfo.vic.status.endpoint"
)

// guest plays the endpoint VM's guest.  The registry tells it of every change of an object.
type guest struct {
	mode string
}

// Reference makes the guest a member of the registry.
func (g *guest) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Guest", Value: "guest"}
}
func (g *guest) PutObject(mo.Reference)                    {}
func (g *guest) RemoveObject(types.ManagedObjectReference) {}
func (g *guest) UpdateObject(o mo.Reference, c []types.PropertyChange) {
	for _, change := range c {
		if change.Name == "runtime.powerState" && change.Val == types.VirtualMachinePowerStatePoweredOn {
			go g.live(o.Reference())
		}
	}
}

func value(vm *mo.VirtualMachine, key string) string {
	found := ""
	for _, o := range vm.Config.ExtraConfig {
		if v := o.GetOptionValue(); v.Key == key {
			found, _ = v.Value.(string)
		}
	}
	return found
}

func (g *guest) live(ref types.ManagedObjectReference) {
	var config struct {
		ID         string `json:"id"`
		Interfaces []struct {
			Mac   string   `json:"mac"`
			Roles []string `json:"roles"`
		} `json:"interfaces"`
	}
	vm, ok := simulator.Map.Get(ref).(*simulator.VirtualMachine)
	if !ok || json.Unmarshal([]byte(value(&vm.VirtualMachine, keyConfig)), &config) != nil || config.ID == "" {
		return
	}
	if g.mode == "silent" {
		return
	}
	addresses := map[string][]string{}
	publish := func(stage string) {
		status, _ := json.Marshal(map[string]interface{}{
			"schema": 1, "vch_id": config.ID, "boot_id": "played", "version": "played", "stage": stage, "addresses": addresses,
		})
		simulator.Map.WithLock(vm, func() {
			extra := []types.BaseOptionValue{}
			for _, o := range vm.Config.ExtraConfig {
				if o.GetOptionValue().Key != keyStatus {
					extra = append(extra, o)
				}
			}
			extra = append(extra, &types.OptionValue{Key: keyStatus, Value: string(status)})
			simulator.Map.Update(vm, []types.PropertyChange{{Name: "config.extraConfig", Val: extra}})
		})
	}
	if g.mode == "off" {
		time.Sleep(100 * time.Millisecond) // after the answer to PowerOnVM_Task
		simulator.Map.WithLock(vm, func() {
			simulator.Map.Update(vm, []types.PropertyChange{{Name: "runtime.powerState", Val: types.VirtualMachinePowerStatePoweredOff}})
		})
		return
	}
	publish("booted")
	publish("network")
	if g.mode == "no-address" {
		return
	}
	for i, nic := range config.Interfaces {
		for _, role := range nic.Roles {
			if role != "bridge" && nic.Mac != "" {
				addresses[role] = []string{fmt.Sprintf("192.0.2.%d/24", 10+i)}
			}
		}
	}
	publish("services")
	publish("ready")
}

// certificate is self-signed.  The simulator's own has an RSA key of 1024 bits, which no current TLS library accepts.
func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "simulated vCenter"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func main() {
	esx := flag.Bool("esx", false, "an ESXi host instead of a vCenter")
	mode := flag.String("guest", "play", "how the guest behaves")
	noDrs := flag.Bool("no-drs", false, "DRS is off on the cluster")
	flag.Parse()
	log.SetOutput(io.Discard)

	model := simulator.VPX()
	if *esx {
		model = simulator.ESX()
	} else {
		model.Datastore = 2
		model.Machine = 0
		model.Portgroup = 2
	}
	if err := model.Create(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer model.Remove()
	if *noDrs {
		cluster := simulator.Map.Any("ClusterComputeResource").(*simulator.ClusterComputeResource)
		cluster.ConfigurationEx.(*types.ClusterConfigInfoEx).DrsConfig.Enabled = types.NewBool(false)
	}
	simulator.Map.AddHandler(&guest{mode: *mode})
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{certificate()}}
	// Only this user may log in.
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("admin", "s3cret-of-the-test")}
	server := model.Service.NewServer()
	defer server.Close()

	der := server.TLS.Certificates[0].Certificate[0]
	cert, _ := x509.ParseCertificate(der)
	print := ""
	for i, b := range sha1.Sum(cert.Raw) {
		if i > 0 {
			print += ":"
		}
		print += fmt.Sprintf("%02X", b)
	}
	line, _ := json.Marshal(map[string]string{"url": "https://" + server.URL.Host, "thumbprint": print})
	fmt.Println(string(line))
	io.Copy(io.Discard, os.Stdin)
}
