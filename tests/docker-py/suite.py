"""docker-py, a client that nobody here wrote, on a VCH with real guests.

DOCKER_HOST, DOCKER_CERT_PATH and DOCKER_TLS_VERIFY lead to it; IMAGE is a busybox in a registry that it may ask.
"""

import os
import socket
import time
import unittest

import docker

IMAGE = os.environ["IMAGE"]
SMALL = {"mem_limit": "128m"}
LOOP = "trap 'exit 5' TERM; trap 'echo hup' HUP; echo up; while :; do sleep 0.1; done"


def until(what, look, seconds=60):
    """Wait until look() is true; what it was last is in the failure."""
    end = time.monotonic() + seconds
    while not (last := look()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: {last}")
    return last


class Vch(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.docker = docker.from_env(timeout=180)
        cls.image = cls.docker.images.pull(IMAGE)

    @classmethod
    def tearDownClass(cls):
        for container in cls.docker.containers.list(all=True):
            container.remove(force=True)
        cls.docker.close()

    def running(self, **options):
        container = self.docker.containers.run(self.image, ["sh", "-c", LOOP], detach=True, **SMALL, **options)
        self.addCleanup(container.remove, force=True)
        return container

    def test_what_it_is(self):
        self.assertTrue(self.docker.ping())
        self.assertEqual(self.docker.version()["Platform"]["Name"], "vSphere Integrated Containers")
        self.assertGreaterEqual(self.docker.info()["Images"], 1)
        self.assertIn("LayersSize", self.docker.df())

    def test_images(self):
        self.assertIn(IMAGE, self.image.tags)
        self.assertEqual(self.docker.images.get(IMAGE).id, self.image.id)
        self.assertTrue(self.image.tag("mine", tag="py"))
        self.assertEqual([i.id for i in self.docker.images.list(name="mine")], [self.image.id])
        self.assertEqual(self.image.history(), [])
        self.docker.images.remove("mine:py")
        with self.assertRaises(docker.errors.ImageNotFound):
            self.docker.images.get("mine:py")
        with self.assertRaises(docker.errors.NotFound):
            self.docker.images.pull(IMAGE.rsplit(":", 1)[0], tag="nothing")

    def test_run_to_its_end(self):
        run = self.docker.containers.run
        self.assertEqual(run(self.image, ["echo", "hello"], remove=True, **SMALL), b"hello\n")
        with self.assertRaises(docker.errors.ContainerError) as failed:
            run(self.image, ["sh", "-c", "echo bad >&2; exit 3"], remove=True, stderr=True, **SMALL)
        self.assertEqual((failed.exception.exit_status, failed.exception.stderr), (3, b"bad\n"))
        with self.assertRaises(docker.errors.APIError) as refused:
            run(self.image, ["no-such-program"], remove=True, **SMALL)
        self.assertIn("executable file not found", refused.exception.explanation)

    def test_a_life(self):
        container = self.running(name="life", labels={"tier": "front"}, environment={"A": "1"})
        self.assertEqual([c.name for c in self.docker.containers.list(filters={"label": "tier=front"})], ["life"])
        until("it says that it is up", lambda: container.logs() == b"up\n")
        self.assertIn("while", str(container.top()["Processes"]))
        self.assertEqual(container.attrs["Config"]["Labels"]["tier"], "front")
        self.assertEqual(container.attrs["HostConfig"]["Memory"], 128 << 20)
        container.rename("lived")
        container.kill(signal="HUP")
        until("it has heard", lambda: container.logs().endswith(b"hup\n"))
        container.restart(timeout=10)
        until("it is up again", lambda: container.logs().count(b"up\n") == 3)
        container.stop(timeout=10)
        container.reload()
        self.assertEqual((container.name, container.status), ("lived", "exited"))
        self.assertEqual(container.wait()["StatusCode"], 5)
        self.assertEqual(container.logs(timestamps=True, tail=1)[:2], b"20")
        events = self.docker.events(since=1, until=int(time.time()) + 1, decode=True, filters={"container": container.id})
        actions = [event["Action"] for event in events]
        self.assertEqual(actions[:2], ["create", "start"])
        self.assertTrue({"kill", "die", "stop", "restart", "rename"} <= set(actions), actions)

    def test_exec(self):
        container = self.running()
        code, (out, err) = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 7"], demux=True)
        self.assertEqual((code, out, err), (7, b"out\n", b"err\n"))
        self.assertEqual(container.exec_run(["sh", "-c", "echo $B; id -u"], environment={"B": "2"}).output, b"2\n0\n")
        code, stream = container.exec_run(["seq", "1", "2000"], stream=True)
        self.assertEqual(b"".join(stream), b"".join(b"%d\n" % n for n in range(1, 2001)))
        self.assertIn(b"/dev/pts/", container.exec_run("tty", tty=True).output)
        code, stream = container.exec_run("cat", stdin=True, socket=True)
        raw = getattr(stream, "_sock", stream)
        raw.sendall(b"through\n")
        raw.shutdown(socket.SHUT_WR) if not hasattr(raw, "unwrap") else None
        self.assertIn(b"through\n", raw.recv(4096))
        stream.close()

    def test_attached(self):
        api = self.docker.api
        config = api.create_host_config(mem_limit="128m")
        made = api.create_container(self.image.id, ["cat"], stdin_open=True, host_config=config)
        self.addCleanup(api.remove_container, made, force=True)
        stream = api.attach_socket(made, params={"stdin": 1, "stdout": 1, "stream": 1})
        api.start(made)
        raw = getattr(stream, "_sock", stream)
        raw.sendall(b"some bytes\n")
        self.assertIn(b"some bytes\n", raw.recv(4096))
        stream.close()
        with self.assertRaises(docker.errors.APIError):
            api.create_container(self.image.id, ["cat"], host_config=api.create_host_config(privileged=True))

    def test_attached_from_now_on(self):
        container = self.running()
        until("it says that it is up", lambda: container.logs() == b"up\n")
        for _ in range(10):
            stream = container.attach_socket(params={"stdout": 1, "stream": 1})
            raw = getattr(stream, "_sock", stream)
            raw.settimeout(60)
            # Once: who is attached misses nothing.
            container.kill(signal="HUP")
            self.assertTrue(raw.recv(4096).endswith(b"hup\n"))
            stream.close()

    def test_what_is_not_there(self):
        with self.assertRaises(docker.errors.NotFound):
            self.docker.containers.get("nobody")
        with self.assertRaises(docker.errors.ImageNotFound):
            self.docker.containers.create("nothing-here:1")
        self.docker.containers.prune()
        states = {c.status for c in self.docker.containers.list(all=True)}
        self.assertTrue(states <= {"running"}, states)


if __name__ == "__main__":
    unittest.main(verbosity=2)
