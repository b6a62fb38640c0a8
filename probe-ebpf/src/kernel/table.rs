//! Lookups with keys made of whole words on the stack (see [`probe_common::address`]). A shorter key
//! is the beginning of its words.

use aya_ebpf::helpers::generated::{
    bpf_map_lookup_elem, bpf_map_pop_elem, bpf_map_push_elem, bpf_map_update_elem,
};

const NO_EXIST: u64 = 1;

/// The value of a key, or null.
///
/// # Safety
/// `map` is one of our maps, its values are `V`, and its keys are no longer than `KEY`.
#[inline(always)]
pub(super) unsafe fn lookup<M, K, V>(map: *const M, key: &K) -> *mut V {
    // SAFETY: the caller's promise.
    unsafe { bpf_map_lookup_elem(map.cast_mut().cast(), (&raw const *key).cast_mut().cast()) }
        .cast()
}

/// An element of an array, or null.
///
/// # Safety
/// `map` is one of our arrays and its values are `V`.
#[inline(always)]
pub(super) unsafe fn element<M, V>(map: *const M, index: u32) -> *mut V {
    let key = u64::from(index);
    // SAFETY: the caller's promise.
    unsafe { lookup(map, &key) }
}

/// Puts a value under a key that is not there yet; false if it is.
///
/// # Safety
/// As [`lookup`], and the values are no longer than a word.
#[inline(always)]
pub(super) unsafe fn insert_new<M, K>(map: *const M, key: &K, value: u64) -> bool {
    // SAFETY: the caller's promise.
    let result = unsafe {
        bpf_map_update_elem(
            map.cast_mut().cast(),
            (&raw const *key).cast_mut().cast(),
            (&raw const value).cast_mut().cast(),
            NO_EXIST,
        )
    };
    result == 0
}

/// Takes a number out of a queue, if there is one.
///
/// # Safety
/// `map` is a queue of `u32`.
#[inline(always)]
pub(super) unsafe fn pop<M>(map: *const M) -> Option<u32> {
    let mut value = 0u64;
    // SAFETY: the caller's promise.
    let result = unsafe { bpf_map_pop_elem(map.cast_mut().cast(), (&raw mut value).cast()) };
    (result == 0).then_some(value as u32)
}

/// Puts a number into a queue.
///
/// # Safety
/// `map` is a queue of `u32`.
#[inline(always)]
pub(super) unsafe fn push<M>(map: *const M, value: u32) {
    let value = u64::from(value);
    // SAFETY: the caller's promise. There is room: the number came out of this queue.
    unsafe {
        bpf_map_push_elem(
            map.cast_mut().cast(),
            (&raw const value).cast_mut().cast(),
            0,
        );
    }
}
