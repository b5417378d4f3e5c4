//! What `vic-machine create` takes of its own, against the time that its upload alone takes, on govmomi's simulator.
//!
//! Prints `create ratio R (ours A s, upload alone B s)`: the medians of interleaved runs, from the start of the process to
//! the VM powered on; then the tool's peak of memory with a small and a big image, and its size.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and says how it fails by panicking")]

use std::path::Path;
use std::time::Instant;

use vic_tests::vcsim::{Shape, Vcsim};
use vic_tests::{block_on, program, write_iso};

const RUNS: usize = 7;
/// As large as the appliance's image may become.
const ISO: u64 = 80 << 20;
const BIG_ISO: u64 = 800 << 20;
const TLS: [&str; 2] = ["--tls-cname", "vch.example"];

fn main() {
    let sim = Vcsim::start(Shape::VCenter, "play");
    let iso = sim.stage.folder.path().join("appliance.iso");
    write_iso(&iso, env!("CARGO_PKG_VERSION"), ISO);
    let (mut ours, mut upload) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(create(&sim).0);
        upload.push(upload_alone(&sim, &iso));
    }
    let (ours, upload) = (median(&mut ours), median(&mut upload));
    println!("create ratio {:.2} (ours {ours:.2} s, upload alone {upload:.2} s)", ours / upload);

    let small = create(&sim).1;
    write_iso(&iso, env!("CARGO_PKG_VERSION"), BIG_ISO);
    let big = create(&sim).1;
    println!("create peak memory {small:.1} MiB with an ISO of 80 MiB, {big:.1} MiB with one of 800 MiB (limit 60)");
    let size = std::fs::metadata(program("vic-machine")).unwrap().len();
    println!("vic-machine {:.1} MB (limit 15)", size as f64 / 1e6);
    assert!(big < 60.0 && small < 60.0, "vic-machine takes too much memory");
    assert!(size < 15_000_000, "vic-machine is too large");
}

/// Seconds from the start of the process to the VM powered on, and the peak of its memory in MiB.
fn create(sim: &Vcsim) -> (f64, f64) {
    let stage = &sim.stage;
    let _ = std::fs::remove_dir_all(stage.folder.path().join("bench"));
    let start = Instant::now();
    let mut create = stage.start("create", &stage.create_args("bench", &TLS));
    create.wait_for("wait for the appliance");
    let seconds = start.elapsed().as_secs_f64();
    let peak = create.peak_kib() as f64 / 1024.0;
    create.finish().ended_with(0);
    stage.vic("delete", &["--name", "bench"]).ended_with(0);
    (seconds, peak)
}

/// Seconds for the file alone, on an open session.
fn upload_alone(sim: &Vcsim, iso: &Path) -> f64 {
    block_on(async {
        let session = sim.stage.session().await;
        let file = vim25::datastore::DatastorePath::new("LocalDS_0", "bench-upload.iso");
        let start = Instant::now();
        session.upload(iso, "DC0", &file, |_| {}).await.unwrap();
        let seconds = start.elapsed().as_secs_f64();
        session.logout().await.unwrap();
        seconds
    })
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
