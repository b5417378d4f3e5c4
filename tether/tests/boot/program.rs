//! The process of the containers that `boot` runs.  Compiled on its own, statically: it is all that the image holds.

use std::{fs, io::Write};

fn show(path: &str) {
    println!("== {path}\n{}", fs::read_to_string(path).unwrap_or_else(|error| error.to_string()));
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("look") => {
            println!("cwd {}", std::env::current_dir().unwrap().display());
            for (name, value) in std::env::vars() {
                println!("env {name}={value}");
            }
            for path in [
                "/proc/self/status",
                "/proc/self/limits",
                "/proc/sys/kernel/hostname",
                "/proc/mounts",
                "/proc/net/route",
                "/etc/hosts",
                "/etc/hostname",
                "/etc/resolv.conf",
                "/image",
            ] {
                show(path);
            }
            // Who is not root opens its own output again.
            fs::File::options().write(true).open("/dev/stdout").unwrap().write_all(b"reopened\n").unwrap();
            eprintln!("to stderr");
            std::process::exit(3);
        }
        Some("eat") => {
            let mut eaten: Vec<Vec<u8>> = Vec::new();
            loop {
                // Written to, so that it is memory and not a promise.
                eaten.push(vec![1; 8 << 20]);
            }
        }
        Some("wait") => {
            println!("waiting");
            loop {
                std::thread::park();
            }
        }
        other => panic!("what is {other:?}?"),
    }
}
