//! The machine that benches run on.

use std::fs;
use std::path::Path;

/// Bytes that a guest's boot takes, and more.
const MEMORY: usize = 1 << 30;

/// Has the machine's own memory at hand.  Where the machine is a guest itself, its host takes away what is free, and what
/// must have it back takes a fifth longer; which of two things that are compared that is would be left to chance.
pub fn touch_memory() {
    let mut memory: Vec<u8> = Vec::with_capacity(MEMORY);
    // In huge pages, as QEMU asks for a guest's.
    // SAFETY: it is advice on pages that are ours.
    unsafe {
        libc::madvise(
            memory.as_mut_ptr().map_addr(|at| at.next_multiple_of(4096)).cast(),
            MEMORY - 4096,
            libc::MADV_HUGEPAGE,
        )
    };
    for byte in memory.spare_capacity_mut().iter_mut().step_by(4096) {
        byte.write(1);
    }
    std::hint::black_box(&memory);
}

/// The hundredths of a second of CPU that the guests of the lab in `folder` have taken, those that run now.
///
/// # Panics
/// When there is none.
pub fn cpu_of_guests(folder: &Path) -> u64 {
    let lab = folder.display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_guest = |process: &Path| {
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        command.starts_with("qemu-system") && command.contains(&lab)
    };
    let taken = |process: &Path| -> Option<u64> {
        // proc(5): utime and stime are the 14th and 15th field; the second one, in parentheses, may hold anything.
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    let guests: Vec<u64> =
        processes.filter(|process| is_guest(process)).filter_map(|process| taken(&process)).collect();
    assert!(!guests.is_empty(), "no guest of the lab in {lab} runs");
    guests.into_iter().sum()
}
