//! Atomic operations of the BPF instruction set (cpu v3, Linux 5.12), which Rust has no names for
//! on this target.

use core::arch::asm;

/// `*at += by`, atomically, on 8 bytes.
///
/// # Safety
/// `at` points to 8 aligned bytes that the verifier lets this program write.
#[inline(always)]
pub(super) unsafe fn add(at: *mut u64, by: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({at} + 0) += {by}", at = in(reg) at, by = in(reg) by) }
}

/// As [`add`], and returns the value before.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(super) unsafe fn fetch_add(at: *mut u64, by: u64) -> u64 {
    let mut value = by;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("{value} = atomic_fetch_add((u64 *)({at} + 0), {value})", at = in(reg) at, value = inout(reg) value);
    }
    value
}

/// Writes `new` if `*at` is `old`; true if it did.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(super) unsafe fn compare_exchange(at: *mut u64, old: u64, new: u64) -> bool {
    let mut seen = old;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("r0 = cmpxchg_64({at} + 0, r0, {new})", at = in(reg) at, new = in(reg) new, inout("r0") seen);
    }
    seen == old
}

/// Hides from the optimiser where a number came from, so that it keeps the bound check that the
/// verifier needs to see.
#[inline(always)]
pub(super) fn opaque(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: moves a register onto itself.
    unsafe { asm!("{value} = {value}", value = inout(reg) value, options(nomem, nostack)) };
    value
}
