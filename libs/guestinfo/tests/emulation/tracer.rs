//! Runs a program under ptrace and answers its backdoor instructions, and `cpuid` where it asks for the hypervisor.
//!
//! `in` faults by itself.  `cpuid` does not, so breakpoints are planted on it, for a program that [`CPUID_OF`] names.

use std::{
    arch::x86_64::__cpuid_count,
    collections::BTreeSet,
    io::Read,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
};

use guestinfo::backdoor::message::Registers;
use nix::{
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::Backdoor;

/// VMware's client looks for the hypervisor's name before it touches the port.  It is small enough for every pair of bytes
/// that reads as `cpuid` to be one; our own client is told its carrier instead.
const CPUID_OF: &str = "vmware-rpctool";

/// How a traced program ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) output: String,
}

/// Runs `command` to its end.  The error says why this machine cannot trace.
pub(crate) fn run(command: &mut Command, backdoor: &mut Backdoor) -> Result<Outcome, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    // SAFETY: ptrace(2) is safe between fork and exec: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let mut child = command.spawn().map_err(|e| format!("cannot start the traced program: {e}"))?;
    let root = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut pipe = child.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    });
    // The first stop is the exec's.
    waitpid(root, None).map_err(|e| format!("cannot wait for the traced program: {e}"))?;
    ptrace::setoptions(root, Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL)
        .map_err(|e| format!("ptrace is not permitted here: {e}"))?;
    let cpuid = plant(root)?;
    ptrace::cont(root, None).unwrap();
    let code = loop {
        // Threads are traced as well, hence any process and __WALL.
        match waitpid(None, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Stopped(pid, Signal::SIGTRAP) => {
                identify(pid, &cpuid);
                let _ = ptrace::cont(pid, None);
            }
            WaitStatus::Stopped(pid, Signal::SIGSEGV) => {
                let signal = (!answer(pid, backdoor)).then_some(Signal::SIGSEGV);
                let _ = ptrace::cont(pid, signal);
            }
            // A new thread's first stop; not a signal that it should see.
            WaitStatus::Stopped(pid, Signal::SIGSTOP) => drop(ptrace::cont(pid, None)),
            WaitStatus::Stopped(pid, signal) => drop(ptrace::cont(pid, signal)),
            WaitStatus::PtraceEvent(pid, ..) => drop(ptrace::cont(pid, None)),
            WaitStatus::Exited(pid, code) if pid == root => break Some(code),
            WaitStatus::Signaled(pid, ..) if pid == root => break None,
            _ => {}
        }
    };
    Ok(Outcome { code, output: reader.join().unwrap() })
}

/// Plants a breakpoint on each `cpuid` of the program; returns their addresses.
fn plant(pid: Pid) -> Result<BTreeSet<u64>, String> {
    let read =
        |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).map_err(|e| format!("cannot read {name}: {e}"));
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(|e| e.to_string())?;
    let mut addresses = BTreeSet::new();
    if !program.ends_with(CPUID_OF) {
        return Ok(addresses);
    }
    let image = read("exe")?;
    // start-end permissions offset device inode path
    for line in String::from_utf8_lossy(&read("maps")?).lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        if fields.get(1).is_none_or(|p| !p.contains('x')) || fields.get(5).copied() != program.to_str() {
            continue;
        }
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = fields[0].split_once('-').unwrap();
        let (start, end, offset) = (number(start), number(end), number(fields[2]));
        let text = &image[offset as usize..image.len().min((offset + end - start) as usize)];
        let found = text.windows(2).enumerate().filter(|(_, pair)| *pair == [0x0f, 0xa2]);
        addresses.extend(found.map(|(at, _)| start + at as u64));
    }
    for address in &addresses {
        let place = *address as ptrace::AddressType;
        let word = ptrace::read(pid, place).map_err(|e| e.to_string())?;
        ptrace::write(pid, place, (word & !0xff) | 0xcc).map_err(|e| e.to_string())?;
    }
    Ok(addresses)
}

/// Executes the `cpuid` that a breakpoint stands on: the processor's answer, with VMware as the hypervisor.
fn identify(pid: Pid, breakpoints: &BTreeSet<u64>) {
    let Ok(mut registers) = ptrace::getregs(pid) else { return };
    if !breakpoints.contains(&(registers.rip - 1)) {
        return;
    }
    let leaf = registers.rax as u32;
    let mut answer = __cpuid_count(leaf, registers.rcx as u32);
    match leaf {
        1 => answer.ecx |= 1 << 31,
        0x4000_0000 => {
            let name = |at: usize| u32::from_le_bytes(b"VMwareVMware"[at..at + 4].try_into().unwrap());
            (answer.eax, answer.ebx, answer.ecx, answer.edx) = (leaf, name(0), name(4), name(8));
        }
        _ => {}
    }
    registers.rax = answer.eax.into();
    registers.rbx = answer.ebx.into();
    registers.rcx = answer.ecx.into();
    registers.rdx = answer.edx.into();
    // The breakpoint's byte was executed; the instruction's second is left.
    registers.rip += 1;
    let _ = ptrace::setregs(pid, registers);
}

/// Answers the instruction that faulted, if it is a backdoor's `in eax, dx`.
fn answer(pid: Pid, backdoor: &mut Backdoor) -> bool {
    let low = |register: u64| u32::try_from(register & 0xffff_ffff).unwrap();
    let Ok(mut registers) = ptrace::getregs(pid) else { return false };
    let Ok(word) = ptrace::read(pid, registers.rip as ptrace::AddressType) else { return false };
    let instruction = word.to_le_bytes()[0];
    if instruction != 0xed || low(registers.rax) != 0x564d_5868 || registers.rdx & 0xffff != 0x5658 {
        return false;
    }
    let reply = backdoor.exchange(Registers {
        eax: low(registers.rax),
        ebx: low(registers.rbx),
        ecx: low(registers.rcx),
        edx: low(registers.rdx),
        esi: low(registers.rsi),
        edi: low(registers.rdi),
    });
    registers.rax = reply.eax.into();
    registers.rbx = reply.ebx.into();
    registers.rcx = reply.ecx.into();
    registers.rdx = reply.edx.into();
    registers.rsi = reply.esi.into();
    registers.rdi = reply.edi.into();
    registers.rip += 1;
    ptrace::setregs(pid, registers).is_ok()
}
