//! What containers take on the lab, with real guests: `start` and `exec`, each against its counterpart in the same run.
//!
//! * `start`: `docker start` until the process runs, against a bare boot of the same kernel to PID 1; what the guest has used of
//!   its memory by then, and tether's part of it.
//! * `exec`: the last fifty of 500 `docker exec` against the first fifty on another VCH, in turn; a hundred at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench says how it fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "stdout is the figure, stderr the progress")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use guest_vm::Guest;
use registry_server::tarball::{busybox, gzip};
use vic_tests::block_on;
use vic_tests::machine::touch_memory;
use vic_tests::vch::{REGISTRY, Vch};

const STARTS: usize = 10;
const EXECS: usize = 500;
/// So many of the first and of the last are compared.
const SAMPLE: usize = 50;
const AT_ONCE: usize = 100;

/// A VCH with the image `busybox`.
fn with_busybox() -> Vch {
    let vch = Vch::up();
    let root = busybox();
    block_on(vch.served.push("busybox:1", &[(gzip(&root), &root[..])]));
    let image = format!("{REGISTRY}/busybox:1");
    vch.docker(&["pull", &image]);
    vch.docker(&["tag", &image, "busybox"]);
    vch
}

/// Power-on to the line of a PID 1 that does nothing else.
fn bare(iso: &std::path::Path) -> f64 {
    let mut guest = Guest::boot(iso, &[], None, &[]);
    guest.wait_for_line("bare: PID 1 runs");
    let took = guest.age();
    guest.wait_for_power_off();
    took.as_secs_f64()
}

/// The value that so many per cent do not pass.
fn percentile(times: &[f64], per_cent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[(times.len() * per_cent).div_ceil(100).max(1) - 1]
}

fn start() {
    let iso = PathBuf::from(std::env::var_os("VIC_BARE_ISO").expect("./scripts/bench start sets VIC_BARE_ISO"));
    let vch = with_busybox();
    vch.docker(&["create", "--name", "one", "-m", "512m", "busybox", "sleep", "100000"]);
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for round in 1..=STARTS {
        touch_memory();
        bares.push(bare(&iso));
        touch_memory();
        ours.push(vch.timed(&["start", "one"]));
        eprintln!("start: round {round} of {STARTS}: ours {:.2} s, bare {:.2} s", ours[round - 1], bares[round - 1]);
        if round < STARTS {
            vch.docker(&["kill", "one"]);
        }
    }
    let (half, most, bare) = (percentile(&ours, 50), percentile(&ours, 95), percentile(&bares, 50));
    println!("start ratio {:.2} (ours {half:.2} s, p95 {most:.2} s, bare {bare:.2} s)", half / bare);
    let value = |text: &str, key: &str| -> f64 {
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_else(|| panic!("{key} is not in {text}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    // What the kernel could give to others is not used.
    let memory = vch.docker(&["exec", "one", "cat", "/proc/meminfo"]);
    let used = (value(&memory, "MemTotal:") - value(&memory, "MemAvailable:")) / 1024.0;
    let tether = value(&vch.docker(&["exec", "one", "cat", "/proc/1/status"]), "VmRSS:") / 1024.0;
    println!("guest memory used after boot {used:.1} MB (limit 40), tether {tether:.1} MB resident (limit 10)");
    assert!(used < 40.0 && tether < 10.0, "the guest takes too much memory");
}

fn exec() {
    // A VCH of its own for those that are the first: its engine and its guest have seen none either.  Both are asked in turn, for a
    // machine that is shared has other seconds a minute later.
    let [old, new] = [with_busybox(), with_busybox()];
    for vch in [&old, &new] {
        vch.docker(&["run", "-d", "--name", "one", "-m", "512m", "busybox", "sleep", "100000"]);
    }
    let timed = |vch: &Vch| vch.timed(&["exec", "one", "true"]);
    for before in (0..EXECS - SAMPLE).step_by(SAMPLE) {
        let some: Vec<f64> = (0..SAMPLE).map(|_| timed(&old)).collect();
        eprintln!("exec: {} of {EXECS}, the last {SAMPLE} {:.4} s", before + SAMPLE, percentile(&some, 50));
    }
    let (last, first): (Vec<f64>, Vec<f64>) = (0..SAMPLE).map(|_| (timed(&old), timed(&new))).unzip();
    let (last, first) = (percentile(&last, 50), percentile(&first, 50));
    println!(
        "exec ratio {:.2} (the last {SAMPLE} of {EXECS} {last:.3} s, the first {SAMPLE} on another VCH, in turn, {first:.3} s)",
        last / first
    );
    drop(new);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let vch = &old;
                scope.spawn(move || vch.docker(&["exec", "one", "echo", &n.to_string()]))
            })
            .collect();
        for (n, one) in all.into_iter().enumerate() {
            assert_eq!(one.join().unwrap().trim(), n.to_string());
        }
    });
    let at_once = begin.elapsed();
    println!(
        "exec at once {AT_ONCE} in {:.2} s ({:.3} s each, one alone {last:.3} s)",
        seconds(at_once),
        seconds(at_once) / AT_ONCE as f64
    );
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn main() {
    // cargo adds `--bench`.
    for name in std::env::args().skip(1).filter(|a| !a.starts_with("--")) {
        match name.as_str() {
            "start" => start(),
            "exec" => exec(),
            other => panic!("{other}: start or exec"),
        }
    }
}
