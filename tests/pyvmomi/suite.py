"""pyVmomi, a client that nobody here wrote, on the lab.

Run by tests/tests/lab/pyvmomi.rs.  The lab to use is named by the environment: LAB_HOST, LAB_PORT, LAB_USER,
LAB_PASSWORD, and LAB_READONLY (a user with the read-only role and the same password).  The same suite runs on the
vCenter and on the ESXi shape; what only one has is skipped on the other with its reason.
"""

import os
import ssl
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

HOST, PORT = os.environ["LAB_HOST"], int(os.environ["LAB_PORT"])
USER, PASSWORD = os.environ["LAB_USER"], os.environ["LAB_PASSWORD"]
READONLY = os.environ["LAB_READONLY"]
UNVERIFIED = ssl._create_unverified_context()
MIB = 1 << 20


def connect(user=USER, password=PASSWORD):
    return SmartConnect(host=HOST, port=PORT, user=user, pwd=password, sslContext=UNVERIFIED)


def collect(si, spec):
    """All objects of a property read, page after page."""
    collector = si.content.propertyCollector
    page = collector.RetrievePropertiesEx([spec], vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=2))
    objects = []
    while page:
        objects += page.objects
        page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
    return objects


class LabCase(unittest.TestCase):
    """A session, and what most tests need of the inventory."""

    def setUp(self):
        self.si = connect()
        self.addCleanup(Disconnect, self.si)
        self.content = self.si.content
        self.vcenter = self.content.about.apiType == "VirtualCenter"
        self.datacenter = self.content.rootFolder.childEntity[0]
        self.compute = self.datacenter.hostFolder.childEntity[0]
        self.host = self.compute.host[0]
        self.pool = self.compute.resourcePool
        self.made = []
        self.addCleanup(self.destroy_vms)

    def destroy_vms(self):
        for vm in self.made:
            try:
                if vm.runtime.powerState == "poweredOn":
                    WaitForTask(vm.PowerOffVM_Task())
                WaitForTask(vm.Destroy_Task())
            except vmodl.fault.ManagedObjectNotFound:
                pass

    def view(self, kind, container=None):
        view = self.content.viewManager.CreateContainerView(container or self.content.rootFolder, [kind], True)
        try:
            return list(view.view)
        finally:
            view.Destroy()

    def network(self, name):
        return next(n for n in self.datacenter.network if n.name == name)

    def create_vm(self, name, devices=(), **settings):
        spec = vim.vm.ConfigSpec(
            name=name, numCPUs=1, memoryMB=64, guestId="otherGuest64",
            files=vim.vm.FileInfo(vmPathName="[datastore1]"), deviceChange=list(devices), **settings)
        task = self.datacenter.vmFolder.CreateVM_Task(spec, self.pool)
        WaitForTask(task)
        self.made.append(task.info.result)
        return task.info.result


def controller(key=-1, bus=0, kind=vim.vm.device.ParaVirtualSCSIController):
    device = kind(key=key, busNumber=bus, sharedBus="noSharing")
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=device)


def disk(controller_key=-1, key=-10, unit=None, capacity=16 * MIB, file="", operation="create", parent=None):
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
        fileName=file, diskMode="persistent", thinProvisioned=True, parent=parent)
    device = vim.vm.device.VirtualDisk(
        key=key, controllerKey=controller_key, unitNumber=unit, capacityInKB=capacity // 1024, backing=backing)
    return vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation=operation, device=device)


def nic(network, key=-20):
    backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(network=network, deviceName=network.name)
    device = vim.vm.device.VirtualVmxnet3(key=key, backing=backing, addressType="generated")
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=device)


class Inventory(LabCase):
    def test_about_and_service_content(self):
        about = self.content.about
        self.assertEqual(about.vendor, "VMware, Inc.")
        if self.vcenter:
            self.assertEqual((about.productLineId, about.name), ("vpx", "VMware vCenter Server"))
            self.assertTrue(about.instanceUuid)
        else:
            self.assertEqual((about.apiType, about.productLineId), ("HostAgent", "embeddedEsx"))
            self.assertIsNone(about.instanceUuid)
            self.assertEqual(self.content.rootFolder._moId, "ha-folder-root")
            self.assertEqual(self.datacenter._moId, "ha-datacenter")
            self.assertEqual(self.host._moId, "ha-host")
            self.assertEqual(type(self.compute), vim.ComputeResource)
            self.assertEqual(self.pool._moId, "ha-root-pool")
        self.assertIsNotNone(self.si.CurrentTime().tzinfo)

    def test_container_views_list_what_is_below(self):
        for kind, least in [(vim.Datacenter, 1), (vim.ComputeResource, 1), (vim.HostSystem, 1),
                            (vim.ResourcePool, 1), (vim.Datastore, 2), (vim.Network, 1), (vim.Folder, 4)]:
            with self.subTest(kind=kind.__name__):
                found = self.view(kind)
                self.assertGreaterEqual(len(found), least)
                self.assertTrue(all(isinstance(o, kind) for o in found))
        self.assertEqual(self.view(vim.HostSystem, self.datacenter.vmFolder), [])

    def test_folders_hold_their_kinds(self):
        children = {f: set(getattr(self.datacenter, f).childType)
                    for f in ("vmFolder", "hostFolder", "datastoreFolder", "networkFolder")}
        for folder, kind in [("vmFolder", "VirtualMachine"), ("hostFolder", "ComputeResource"),
                             ("datastoreFolder", "Datastore"), ("networkFolder", "Network")]:
            self.assertIn(kind, children[folder])

    def test_traversal_reaches_hosts_from_the_root(self):
        collector = vmodl.query.PropertyCollector
        down = collector.SelectionSpec(name="down")
        to_compute = collector.TraversalSpec(
            name="compute", type=vim.Datacenter, path="hostFolder", selectSet=[down])
        to_host = collector.TraversalSpec(name="host", type=vim.ComputeResource, path="host")
        folder = collector.TraversalSpec(
            name="down", type=vim.Folder, path="childEntity", selectSet=[down, to_compute, to_host])
        spec = collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=self.content.rootFolder, skip=True, selectSet=[folder])],
            propSet=[collector.PropertySpec(type=vim.HostSystem, pathSet=["name", "runtime.connectionState"])])
        objects = collect(self.si, spec)
        self.assertEqual([o.obj for o in objects], list(self.compute.host))
        for o in objects:
            values = {p.name: p.val for p in o.propSet}
            self.assertEqual(values["runtime.connectionState"], "connected")
            self.assertTrue(values["name"])

    def test_property_reads(self):
        collector = vmodl.query.PropertyCollector

        def read(obj, *paths):
            spec = collector.FilterSpec(
                objectSet=[collector.ObjectSpec(obj=obj)],
                propSet=[collector.PropertySpec(type=type(obj), pathSet=list(paths))])
            (found,) = collect(self.si, spec)
            return {p.name: p.val for p in found.propSet}

        values = read(self.datacenter, "name", "datastore", "network")
        self.assertEqual({d.name for d in values["datastore"]}, {"datastore1", "datastore2"})
        self.assertIn("VM Network", {n.name for n in values["network"]})
        vm = self.create_vm("properties", [controller(), disk()],
                            extraConfig=[vim.option.OptionValue(key="a.b", value="c")])
        values = read(vm, "config.hardware.device", "config.extraConfig[\"a.b\"].value", "guest.ipAddress",
                      "runtime.powerState", "snapshot")
        self.assertEqual(values["config.extraConfig[\"a.b\"].value"], "c")
        self.assertEqual(values["runtime.powerState"], "poweredOff")
        self.assertTrue(any(isinstance(d, vim.vm.device.VirtualDisk) for d in values["config.hardware.device"]))
        # What is unset is left out, and what the type has not is refused.
        self.assertNotIn("guest.ipAddress", values)
        self.assertNotIn("snapshot", values)
        with self.assertRaises(vmodl.query.InvalidProperty) as refused:
            read(vm, "config.nonsense")
        self.assertEqual(refused.exception.name, "config.nonsense")
        self.assertIsNone(vm.guest.ipAddress)
        self.assertEqual(read(vm, "summary.config.numVirtualDisks"), {"summary.config.numVirtualDisks": 1})

    def test_search_index(self):
        vm = self.create_vm("sought")
        index = self.content.searchIndex
        path = f"{self.datacenter.name}/vm/sought"
        self.assertEqual(index.FindByInventoryPath(path), vm)
        self.assertIsNone(index.FindByInventoryPath(path + "-not"))
        self.assertEqual(index.FindByUuid(None, vm.config.uuid, True), vm)
        self.assertEqual(index.FindByUuid(None, vm.config.instanceUuid, True, True), vm)
        self.assertIsNone(index.FindByUuid(None, vm.config.uuid, False))
        self.assertEqual(index.FindChild(self.datacenter.vmFolder, "sought"), vm)
        self.assertEqual(index.FindByDatastorePath(self.datacenter, vm.config.files.vmPathName), vm)

    def test_folders_pools_and_vapps(self):
        if not self.vcenter:
            for refused in (lambda: self.datacenter.vmFolder.CreateFolder("f"),
                            lambda: self.content.rootFolder.CreateFolder("f"),
                            lambda: self.pool.CreateVApp("v", pool_spec(), vim.vApp.VAppConfigSpec(),
                                                         self.datacenter.vmFolder)):
                self.assertRaises(vmodl.fault.NotSupported, refused)
        else:
            folder = self.datacenter.vmFolder.CreateFolder("one/two")
            self.assertEqual(folder.name, "one%2ftwo")
            self.assertEqual(folder.parent, self.datacenter.vmFolder)
            vapp = self.pool.CreateVApp("vapp", pool_spec(), vim.vApp.VAppConfigSpec(), folder)
            self.assertEqual(list(folder.childEntity), [vapp])
            WaitForTask(vapp.Destroy_Task())
            WaitForTask(folder.Destroy_Task())
        pool = self.pool.CreateResourcePool("pool", pool_spec())
        self.assertEqual(pool.owner, self.compute)
        pool.UpdateConfig("renamed", None)
        self.assertEqual(pool.name, "renamed")
        WaitForTask(pool.Destroy_Task())
        self.assertRaises(vmodl.fault.ManagedObjectNotFound, lambda: pool.name)


def pool_spec():
    def allocation():
        return vim.ResourceAllocationInfo(reservation=0, expandableReservation=True, limit=-1,
                                          shares=vim.SharesInfo(shares=0, level="normal"))
    return vim.ResourceConfigSpec(cpuAllocation=allocation(), memoryAllocation=allocation())


class VirtualMachine(LabCase):
    def test_life_of_a_vm(self):
        network = self.network("VM Network")
        vm = self.create_vm("life", [controller(), disk(), nic(network)], annotation="first",
                            extraConfig=[vim.option.OptionValue(key="guestinfo.a", value="1")])
        devices = {type(d): d for d in vm.config.hardware.device}
        self.assertEqual(devices[vim.vm.device.ParaVirtualSCSIController].key, 1000)
        first = devices[vim.vm.device.VirtualDisk]
        self.assertEqual((first.controllerKey, first.unitNumber, first.capacityInBytes), (1000, 0, 16 * MIB))
        self.assertEqual(first.backing.fileName, "[datastore1] life/life.vmdk")
        self.assertRegex(devices[vim.vm.device.VirtualVmxnet3].macAddress, "^00:50:56:")
        self.assertEqual(list(vm.network), [network])
        self.assertIn(vm, network.vm)

        more = vim.vm.ConfigSpec(
            annotation="second", memoryMB=128, deviceChange=[disk(1000, unit=3)],
            extraConfig=[vim.option.OptionValue(key="guestinfo.a", value=""),
                         vim.option.OptionValue(key="guestinfo.b", value="2 <&> \u00fc")])
        WaitForTask(vm.ReconfigVM_Task(more))
        extra = {o.key: o.value for o in vm.config.extraConfig}
        self.assertEqual((extra.get("guestinfo.a"), extra["guestinfo.b"]), (None, "2 <&> \u00fc"))
        self.assertEqual((vm.config.annotation, vm.config.hardware.memoryMB), ("second", 128))
        self.assertEqual(sorted(d.unitNumber for d in self.disks(vm)), [0, 3])

        WaitForTask(vm.PowerOnVM_Task())
        self.assertEqual((vm.runtime.powerState, vm.runtime.host), ("poweredOn", self.host))
        self.assertIsNotNone(vm.runtime.bootTime)
        with self.assertRaises(vim.fault.InvalidPowerState) as refused:
            WaitForTask(vm.PowerOnVM_Task())
        self.assertEqual(refused.exception.existingState, "poweredOn")
        # Hot: a disk comes and goes, the memory does not change.
        WaitForTask(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[disk(1000)])))
        self.assertEqual(len(self.disks(vm)), 3)
        added = max(self.disks(vm), key=lambda d: d.key)
        gone = vim.vm.device.VirtualDeviceSpec(operation="remove", fileOperation="destroy", device=added)
        self.assertRaises(vim.fault.InvalidPowerState, WaitForTask,
                          vm.ReconfigVM_Task(vim.vm.ConfigSpec(memoryMB=256)))
        self.assertRaises(vim.fault.InvalidPowerState, WaitForTask, vm.Destroy_Task())
        self.assertRaises(vim.fault.ToolsUnavailable, vm.ShutdownGuest)
        WaitForTask(vm.ResetVM_Task())
        WaitForTask(vm.PowerOffVM_Task())
        self.assertEqual(vm.runtime.powerState, "poweredOff")
        self.assertRaises(vim.fault.InvalidPowerState, WaitForTask, vm.PowerOffVM_Task())
        WaitForTask(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[gone])))
        self.assertEqual(len(self.disks(vm)), 2)

        WaitForTask(vm.Rename_Task("renamed"))
        self.assertEqual((vm.name, vm.config.name), ("renamed", "renamed"))
        WaitForTask(vm.Destroy_Task())
        with self.assertRaises(vmodl.fault.ManagedObjectNotFound) as refused:
            vm.name
        self.assertEqual(refused.exception.obj, vm)

    @staticmethod
    def disks(vm):
        return [d for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]

    def test_a_vm_that_asks_waits_for_the_answer(self):
        vm = self.create_vm("curious")
        for label, ended in [("Cancel", "error"), ("Retry", "success")]:
            task = vm.PowerOnVM_Task()
            deadline = time.monotonic() + 30
            while vm.runtime.question is None:
                self.assertLess(time.monotonic(), deadline, "it does not ask")
            question = vm.runtime.question
            self.assertEqual((question.text, question.message[0].id), ("msg.test:Go on?", "msg.test"))
            self.assertEqual(question.choice.choiceInfo[question.choice.defaultIndex].label, "Retry")
            with self.assertRaises(vim.fault.QuestionPending) as refused:
                WaitForTask(vm.PowerOffVM_Task())
            self.assertEqual(refused.exception.text, question.text)
            (key,) = [choice.key for choice in question.choice.choiceInfo if choice.label == label]
            vm.AnswerVM(question.id, key)
            self.assertRaises(vim.fault.ConcurrentAccess, vm.AnswerVM, question.id, key)
            WaitForTask(task, raiseOnError=False)
            self.assertEqual(task.info.state, ended)
            self.assertIsNone(vm.runtime.question)
        self.assertEqual(vm.runtime.powerState, "poweredOn")

    def test_device_rules(self):
        vm = self.create_vm("rules", [controller(), disk(), nic(self.network("VM Network"))])

        def change(*specs):
            WaitForTask(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=list(specs))))

        with self.assertRaises(vim.fault.InvalidDeviceSpec) as refused:
            change(disk(1000, unit=2), disk(4711))
        self.assertEqual(refused.exception.deviceIndex, 1)
        self.assertRaises(vim.fault.InvalidDeviceSpec, change, disk(1000, unit=0))
        self.assertRaises(vim.fault.InvalidDeviceSpec, change, disk(1000, unit=7))
        self.assertRaises(vim.fault.FileNotFound, change,
                          disk(1000, file="[datastore1] rules/not-there.vmdk", operation=None))
        self.assertRaises(vim.fault.FileAlreadyExists, change, disk(1000, file="[datastore1] rules/rules.vmdk"))
        self.assertRaises(vim.fault.InvalidDatastorePath, change, disk(1000, file="[no-such-store] a.vmdk"))
        unknown = vim.vm.device.VirtualDevice(key=9999)
        self.assertRaises(vim.fault.DeviceNotFound, change,
                          vim.vm.device.VirtualDeviceSpec(operation="remove", device=unknown))
        self.assertEqual(len(VirtualMachine.disks(vm)), 1)

    def test_events_tell_what_happened(self):
        vm = self.create_vm("told")
        by_entity = vim.event.EventFilterSpec.ByEntity(entity=vm, recursion="self")
        events = self.content.eventManager.QueryEvents(vim.event.EventFilterSpec(entity=by_entity))
        self.assertIn(vim.event.VmCreatedEvent, [type(e) for e in events])
        self.assertEqual({e.vm.vm for e in events}, {vm})

    def test_a_task_tells_its_entity_and_its_user(self):
        vm = self.create_vm("tasked")
        task = vm.Rename_Task("tasked-2")
        WaitForTask(task)
        info = task.info
        self.assertEqual((info.state, info.entity, info.descriptionId), ("success", vm, "ManagedEntity.rename"))
        self.assertEqual(info.reason.userName.split("\\")[-1], USER)
        self.assertIsNotNone(info.completeTime)


class Files(LabCase):
    def url(self, path, **more):
        query = {"dcPath": self.datacenter.name, "dsName": "datastore1", **more}
        return f"https://{HOST}:{PORT}/folder/{urllib.parse.quote(path)}?{urllib.parse.urlencode(query)}"

    def send(self, method, path, data=None, cookie=True):
        request = urllib.request.Request(self.url(path), data=data, method=method)
        if cookie:
            request.add_header("Cookie", self.si._stub.cookie)
        return urllib.request.urlopen(request, context=UNVERIFIED)

    def datastore(self):
        return next(d for d in self.datacenter.datastore if d.name == "datastore1")

    def test_files_go_up_and_down(self):
        manager = self.content.fileManager
        manager.MakeDirectory("[datastore1] py/deep", self.datacenter, True)
        self.addCleanup(lambda: WaitForTask(manager.DeleteDatastoreFile_Task("[datastore1] py", self.datacenter)))
        self.assertRaises(vim.fault.FileAlreadyExists, manager.MakeDirectory, "[datastore1] py", self.datacenter)
        self.assertRaises(vim.fault.FileNotFound, manager.MakeDirectory, "[datastore1] no/way", self.datacenter)
        data = os.urandom(3 * MIB + 7)
        self.assertEqual(self.send("PUT", "py/deep/a file.bin", data).status, 201)
        self.assertEqual(self.send("PUT", "py/deep/a file.bin", data).status, 200)
        self.assertEqual(self.send("GET", "py/deep/a file.bin").read(), data)
        for method, path, cookie, status in [("GET", "py/nothing", True, 404), ("GET", "py/deep/a file.bin", False, 401),
                                             ("PUT", "nowhere/x", True, 404)]:
            with self.assertRaises(urllib.error.HTTPError) as refused:
                self.send(method, path, b"x" if method == "PUT" else None, cookie)
            self.assertEqual(refused.exception.code, status, (method, path))

        browser = self.datastore().browser
        details = vim.host.DatastoreBrowser.FileInfo.Details(fileType=True, fileSize=True, modification=True)
        spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=["*.bin"], details=details)
        task = browser.SearchDatastoreSubFolders_Task("[datastore1] py", spec)
        WaitForTask(task)
        found = {r.folderPath: [(f.path, f.fileSize) for f in r.file] for r in task.info.result}
        self.assertEqual(found["[datastore1] py/deep/"], [("a file.bin", len(data))])
        task = browser.SearchDatastore_Task("[datastore1] py")
        WaitForTask(task)
        self.assertEqual([type(f) for f in task.info.result.file], [vim.host.DatastoreBrowser.FolderInfo])
        self.assertRaises(vim.fault.FileNotFound, WaitForTask, browser.SearchDatastore_Task("[datastore1] nope"))

        WaitForTask(manager.CopyDatastoreFile_Task("[datastore1] py/deep/a file.bin", self.datacenter,
                                                   "[datastore2] b.bin", self.datacenter))
        WaitForTask(manager.MoveDatastoreFile_Task("[datastore2] b.bin", self.datacenter,
                                                   "[datastore1] py/c.bin", self.datacenter))
        self.assertEqual(self.send("GET", "py/c.bin").read(), data)
        WaitForTask(manager.DeleteDatastoreFile_Task("[datastore1] py/c.bin", self.datacenter))
        self.assertRaises(vim.fault.FileNotFound, WaitForTask,
                          manager.DeleteDatastoreFile_Task("[datastore1] py/c.bin", self.datacenter))

    def test_virtual_disks(self):
        manager = self.content.virtualDiskManager
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType="thin", adapterType="lsiLogic", capacityKb=8 * 1024)
        WaitForTask(manager.CreateVirtualDisk_Task("[datastore1] one.vmdk", self.datacenter, spec))
        self.assertRegex(manager.QueryVirtualDiskUuid("[datastore1] one.vmdk", self.datacenter), "^6000C29")
        WaitForTask(manager.CopyVirtualDisk_Task("[datastore1] one.vmdk", self.datacenter, "[datastore1] two.vmdk",
                                                 self.datacenter))
        for name in ("one", "two"):
            WaitForTask(manager.DeleteVirtualDisk_Task(f"[datastore1] {name}.vmdk", self.datacenter))
        self.assertRaises(vim.fault.FileNotFound, WaitForTask,
                          manager.DeleteVirtualDisk_Task("[datastore1] one.vmdk", self.datacenter))


class Updates(LabCase):
    def test_a_wait_tells_what_entered_and_what_changed(self):
        vm = self.create_vm("watched")
        kind = vmodl.query.PropertyCollector
        collector = self.content.propertyCollector.CreatePropertyCollector()
        self.addCleanup(collector.Destroy)
        collector.CreateFilter(kind.FilterSpec(
            objectSet=[kind.ObjectSpec(obj=vm)],
            propSet=[kind.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "runtime.powerState"])]), False)
        options = kind.WaitOptions(maxWaitSeconds=20)
        first = collector.WaitForUpdatesEx("", options)
        (entered,) = first.filterSet[0].objectSet
        self.assertEqual((entered.kind, {c.name: c.val for c in entered.changeSet}),
                         ("enter", {"name": "watched", "runtime.powerState": "poweredOff"}))
        self.assertIsNone(collector.WaitForUpdatesEx(first.version, kind.WaitOptions(maxWaitSeconds=0)))
        # From another session, while this one waits.
        other = connect()
        self.addCleanup(Disconnect, other)
        same = vim.VirtualMachine(vm._moId, other._stub)
        rename = threading.Thread(target=lambda: WaitForTask(same.Rename_Task("watched-2")))
        rename.start()
        second = collector.WaitForUpdatesEx(first.version, options)
        rename.join()
        (changed,) = second.filterSet[0].objectSet
        self.assertEqual([(c.name, c.op, c.val) for c in changed.changeSet], [("name", "assign", "watched-2")])
        self.assertRaises(vmodl.query.InvalidCollectorVersion, collector.WaitForUpdatesEx, "4711", options)


class HostNetwork(LabCase):
    def test_switches_and_port_groups_come_and_go(self):
        system = self.host.configManager.networkSystem
        self.assertEqual([s.name for s in system.networkInfo.vswitch], ["vSwitch0"])
        system.AddVirtualSwitch("py-switch", vim.host.VirtualSwitch.Specification(numPorts=128))
        self.assertRaises(vim.fault.AlreadyExists, system.AddVirtualSwitch, "py-switch")
        group = vim.host.PortGroup.Specification(
            name="py/group", vlanId=7, vswitchName="py-switch", policy=vim.host.NetworkPolicy())
        system.AddPortGroup(group)
        self.assertRaises(vim.fault.AlreadyExists, system.AddPortGroup, group)
        for wrong, fault in [(dict(name="x", vlanId=4096), vmodl.fault.InvalidArgument),
                             (dict(name="", vlanId=0), vmodl.fault.InvalidArgument),
                             (dict(name="x", vlanId=0, vswitchName="no-such"), vim.fault.NotFound)]:
            spec = vim.host.PortGroup.Specification(
                **{"vswitchName": "py-switch", "policy": vim.host.NetworkPolicy(), **wrong})
            self.assertRaises(fault, system.AddPortGroup, spec)
        info = system.networkInfo
        (row,) = [p for p in info.portgroup if p.spec.name == "py/group"]
        (switch,) = [s for s in info.vswitch if s.name == "py-switch"]
        self.assertEqual((row.spec.vlanId, row.vswitch, list(switch.portgroup)), (7, switch.key, [row.key]))

        network = self.network("py%2fgroup")
        for holder in (self.host.network, self.compute.network, self.datacenter.networkFolder.childEntity):
            self.assertIn(network, holder)
        self.assertEqual(list(network.host), [self.host])
        vm = self.create_vm("on-group", [nic(network)])
        WaitForTask(vm.PowerOnVM_Task())
        self.assertRaises(vim.fault.ResourceInUse, system.RemovePortGroup, "py/group")
        self.assertRaises(vim.fault.ResourceInUse, system.RemoveVirtualSwitch, "py-switch")
        self.destroy_vms()
        system.RemovePortGroup("py/group")
        self.assertRaises(vim.fault.NotFound, system.RemovePortGroup, "py/group")
        self.assertNotIn(network, self.datacenter.network)
        self.assertRaises(vmodl.fault.ManagedObjectNotFound, lambda: network.name)
        system.RemoveVirtualSwitch("py-switch")
        self.assertRaises(vim.fault.NotFound, system.RemoveVirtualSwitch, "py-switch")
        # The host's own traffic goes over this one.
        self.assertRaises(vim.fault.ResourceInUse, system.RemovePortGroup, "Management Network")

    def test_firewall_rule_sets(self):
        system = self.host.configManager.firewallSystem
        policy = system.firewallInfo.defaultPolicy
        self.assertEqual((policy.incomingBlocked, policy.outgoingBlocked), (True, True))
        for change, state in [(system.EnableRuleset, True), (system.DisableRuleset, False)]:
            change("vSPC")
            system.RefreshFirewall()
            (rules,) = [r for r in system.firewallInfo.ruleset if r.key == "vSPC"]
            self.assertEqual((rules.enabled, rules.rule[0].direction), (state, "outbound"))
            shown = [[(r.key, r.enabled) for r in rules] for rules in
                     (self.host.config.firewall.ruleset, system.firewallInfo.ruleset)]
            self.assertEqual(shown[0], shown[1])
        self.assertRaises(vim.fault.NotFound, system.EnableRuleset, "no-such-rules")


class Licences(LabCase):
    def test_the_licence_names_its_features(self):
        manager = self.content.licenseManager
        (licence,) = manager.licenses
        features = {p.value.key for p in licence.properties if p.key == "feature"}
        self.assertTrue({"serialuri:2", "dvs", "drs"} <= features, features)
        if self.vcenter:
            assigned = manager.licenseAssignmentManager.QueryAssignedLicenses(self.host._moId)
            self.assertEqual([a.assignedLicense.licenseKey for a in assigned], [licence.licenseKey])
        else:
            self.assertIsNone(manager.licenseAssignmentManager)


class Faults(LabCase):
    def test_logins(self):
        with self.assertRaises(vim.fault.InvalidLogin):
            connect(password="wrong")
        si = connect()
        folder = si.content.rootFolder
        key = si.content.sessionManager.currentSession.key
        self.assertTrue(any(s.key == key for s in self.content.sessionManager.sessionList))
        # A session of its own, so that the stub does not log in again by itself.
        si.content.sessionManager.Logout()
        with self.assertRaises(vim.fault.NotAuthenticated):
            folder.name
        self.assertFalse(any(s.key == key for s in self.content.sessionManager.sessionList))

    def test_names(self):
        vm = self.create_vm("taken")
        with self.assertRaises(vim.fault.DuplicateName) as refused:
            self.create_vm("taken")
        self.assertEqual((refused.exception.name, refused.exception.object), ("taken", vm))
        with self.assertRaises(vim.fault.InvalidName):
            self.create_vm("x" * 81)

    def test_a_read_only_user_sees_and_does_not_touch(self):
        vm = self.create_vm("guarded")
        si = connect(READONLY)
        self.addCleanup(Disconnect, si)
        seen = vim.VirtualMachine(vm._moId, si._stub)
        folder = vim.Folder(self.datacenter.vmFolder._moId, si._stub)
        self.assertEqual(seen.name, "guarded")
        for action, obj, privilege in [
            (seen.PowerOnVM_Task, seen, "VirtualMachine.Interact.PowerOn"),
            (seen.Destroy_Task, seen, "VirtualMachine.Inventory.Delete"),
            (lambda: seen.Rename_Task("x"), seen, "VirtualMachine.Config.Rename"),
            (lambda: folder.CreateFolder("x"), folder, "Folder.Create"),
            (lambda: seen.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="x")), seen, "VirtualMachine.Config.Annotation"),
        ]:
            with self.subTest(privilege=privilege), self.assertRaises(vim.fault.NoPermission) as refused:
                action()
            self.assertEqual((refused.exception.object, refused.exception.privilegeId), (obj, privilege))
        manager = si.content.authorizationManager
        (answer,) = manager.HasPrivilegeOnEntities(
            [seen], si.content.sessionManager.currentSession.key, ["System.Read", "VirtualMachine.Interact.PowerOn"])
        self.assertEqual([p.isGranted for p in answer.privAvailability], [True, False])

    def test_unknown_objects(self):
        ghost = vim.VirtualMachine("vm-4711", self.si._stub)
        with self.assertRaises(vmodl.fault.ManagedObjectNotFound) as refused:
            ghost.PowerOnVM_Task()
        self.assertEqual(refused.exception.obj, ghost)


if __name__ == "__main__":
    unittest.main(verbosity=2)
