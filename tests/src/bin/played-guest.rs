//! Stands in the place of `qemu-system-x86_64` under a lab, for tests that need hundreds of VMs and no guest's kernel: a process
//! of the same life with the same sockets, in which the part of tether is played.
//!
//! What the container's process does is said by its arguments:
//!
//! | arguments | what it does |
//! | --- | --- |
//! | `run` | runs until it is asked to end |
//! | `deaf` | runs, and does not listen when it is asked to end |
//! | `slow MILLISECONDS` | ends at once when it is asked to, and is so long in writing its disk |
//! | `exit CODE MILLISECONDS` | ends by itself |
//! | `fail` | cannot be started |
//! | `crash` | the VM goes off before the guest has said anything |
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "test support: a failed step fails the test"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guestinfo::{Channel, HostRequest};
use serde_json::{Value, json};
use tether_proto::{Container, Document as _, KEY_CONTAINER, KEY_EXIT, Run, State};

/// 128 and SIGTERM.
const TERMINATED: i32 = 143;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(pid_file) = after(&args, "-pidfile").next() else { really(&args) };
    let listen = |path: &str| UnixListener::bind(path).unwrap();
    let qmp = listen(field(after(&args, "-qmp").next().unwrap(), "unix:").unwrap());
    let mut guest_info = None;
    for device in after(&args, "-chardev") {
        if device.starts_with("socket,id=guestinfo,") {
            guest_info = field(device, "path=").map(listen);
        } else if device.starts_with("file,") {
            std::fs::File::options().create(true).append(true).open(field(device, "path=").unwrap()).unwrap();
        }
    }
    // SAFETY: the process has one thread yet.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: it touches no memory.  The lab's end is not this one's.
            unsafe { libc::setsid() };
        }
        child => {
            assert!(child > 0, "there is no second process");
            std::fs::write(pid_file, child.to_string()).unwrap();
            return;
        }
    }
    std::thread::spawn(move || {
        for stream in qmp.incoming().flatten() {
            std::thread::spawn(move || manage(stream));
        }
    });
    play(&guest_info.expect("the lab gives every VM a channel"));
}

/// Whatever is not a VM, such as the lab's look for a usable accelerator, is QEMU's after all.
fn really(args: &[String]) -> ! {
    let own = std::env::args_os().next().map(std::path::PathBuf::from).unwrap_or_default();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut others = std::env::split_paths(&paths).map(|p| p.join("qemu-system-x86_64"));
    let real = others.find(|p| p.is_file() && !p.is_symlink() && *p != own).expect("QEMU is not installed");
    panic!("{}", std::process::Command::new(real).args(args).exec());
}

/// The values of an option.
fn after<'a>(args: &'a [String], option: &'a str) -> impl Iterator<Item = &'a str> {
    args.windows(2).filter(move |pair| pair[0] == option).map(|pair| pair[1].as_str())
}

/// The part of an option's value that begins with `prefix`, without it.
fn field<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    value.split(',').find_map(|part| part.strip_prefix(prefix))
}

/// The hypervisor's part: hardware that is changed is taken for granted.
fn manage(mut stream: UnixStream) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        let request: Value = serde_json::from_str(&line).unwrap_or_default();
        let result = match request["execute"].as_str() {
            Some("query-status") => json!({ "status": "running" }),
            _ => json!({}),
        };
        let answer = json!({ "return": result, "id": request["id"] });
        if writeln!(stream, "{answer}").is_err() {
            return;
        }
        if request["execute"] == "quit" {
            power_off();
        }
    }
}

fn power_off() -> ! {
    #[allow(clippy::exit, reason = "the end of the process is the end of the VM, whatever its other threads do")]
    std::process::exit(0)
}

fn now() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|now| u64::try_from(now.as_nanos()).ok())
}

/// Tether's part.
fn play(listener: &UnixListener) -> ! {
    let (stream, _) = listener.accept().unwrap();
    let (asked, requests) = mpsc::channel();
    let channel =
        Channel::over_serial(stream.try_clone().unwrap(), stream, guestinfo::Timing::default(), move |request| {
            let _ = asked.send(request);
        });
    let text = channel.get(KEY_CONTAINER).unwrap().expect("a container's VM");
    let container = Container::from_text(&text).unwrap();
    let args: Vec<&str> = container.process.args.iter().map(String::as_str).collect();
    let say = |run: &Run| channel.set(KEY_EXIT, &run.to_text()).unwrap();
    let mut run = Run::new(&container.id);
    if args == ["crash"] {
        power_off();
    }
    say(&run);
    if args == ["fail"] {
        run.state = State::Failed { code: 127, error: "no such program".into() };
        run.finished_ns = now();
        say(&run);
        power_off();
    }
    run.started_ns = now();
    run.state = State::Running;
    say(&run);
    let code = match args[..] {
        ["exit", code, milliseconds] => {
            let asked = requests.recv_timeout(Duration::from_millis(milliseconds.parse().unwrap()));
            if asked.is_ok() { TERMINATED } else { code.parse().unwrap() }
        }
        ["slow", milliseconds] => {
            let _ = requests.recv();
            run.finished_ns = now();
            say(&run);
            let end = Instant::now() + Duration::from_millis(milliseconds.parse().unwrap());
            while requests.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok() {}
            TERMINATED
        }
        ["deaf"] => loop {
            // The channel lives as long as its thread: this waits for the VM's end.
            let _: Result<HostRequest, _> = requests.recv();
        },
        _ => loop {
            let request = requests.recv();
            if request != Ok(HostRequest::Reboot) {
                break TERMINATED;
            }
            run.state = State::Exited { code: TERMINATED, out_of_memory: false };
            run.finished_ns = now();
            say(&run);
            // A firmware and a kernel take their time.
            let _ = requests.recv_timeout(Duration::from_secs(1));
            run = Run::new(&container.id);
            say(&run);
            (run.started_ns, run.state) = (now(), State::Running);
            say(&run);
        },
    };
    run.state = State::Exited { code, out_of_memory: false };
    run.finished_ns = now();
    say(&run);
    power_off()
}
