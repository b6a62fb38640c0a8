//! The kernel programs. Contexts and helpers of the kernel's ABI only: nothing here reads kernel
//! memory, so the object loads under `lockdown=confidentiality` and without BTF of the kernel.
//!
//! One file per hook below `kernel/`; what they decide is in the library, where it can be tested.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod kernel;

/// On the host this binary is empty: it exists so that lints and editors see the crate.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
