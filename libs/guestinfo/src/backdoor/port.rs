//! The two instructions that reach a hypervisor.

use super::message::{Port, Registers};

/// Whether the hypervisor says that it is VMware's (CPUID leaf 0x4000_0000).
#[cfg(target_arch = "x86_64")]
pub fn is_vmware() -> bool {
    use std::arch::x86_64::__cpuid;
    // Bit 31 of leaf 1's ECX: a hypervisor is present, so the leaf below has a meaning.
    if __cpuid(1).ecx & (1 << 31) == 0 {
        return false;
    }
    let leaf = __cpuid(0x4000_0000);
    let mut name = [0; 12];
    for (part, register) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
        part.copy_from_slice(&register.to_le_bytes());
    }
    &name == b"VMwareVMware"
}

/// Whether the hypervisor says that it is VMware's: the backdoor is known on x86-64 only.
#[cfg(not(target_arch = "x86_64"))]
pub fn is_vmware() -> bool {
    false
}

/// The hypervisor's port.  On anything but VMware its use ends the process with SIGSEGV.
#[derive(Debug, Clone, Copy)]
pub struct Hypervisor;

impl Port for Hypervisor {
    #[cfg(target_arch = "x86_64")]
    fn exchange(&mut self, r: Registers) -> Registers {
        let (mut eax, mut ebx, mut ecx) = (r.eax, u64::from(r.ebx), r.ecx);
        let (mut edx, mut esi, mut edi) = (r.edx, r.esi, r.edi);
        // SAFETY: on VMware the port's `in` touches no memory; it changes the six named registers, all declared as
        // outputs.  RBX belongs to the compiler, so its value waits in a scratch register meanwhile and is put back.
        // Elsewhere the instruction is privileged and raises SIGSEGV, which is not undefined behaviour.
        unsafe {
            std::arch::asm!(
                "xchg rbx, {ebx}",
                "in eax, dx",
                "xchg rbx, {ebx}",
                ebx = inout(reg) ebx,
                inout("eax") eax,
                inout("ecx") ecx,
                inout("edx") edx,
                inout("esi") esi,
                inout("edi") edi,
                options(nostack),
            );
        }
        #[expect(clippy::cast_possible_truncation, reason = "the upper half of RBX carries nothing")]
        Registers { eax, ebx: ebx as u32, ecx, edx, esi, edi }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn exchange(&mut self, _: Registers) -> Registers {
        Registers::default()
    }
}
