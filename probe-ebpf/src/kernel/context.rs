//! Loads from contexts and socket views. The verifier wants each one as "pointer as given, plus a
//! constant", of the field's own width; the optimiser likes to merge loads and to move the constant
//! into the pointer, which assembly forbids it.

/// A field of 4 bytes: `load32!(pointer, Type, field)`, or `load32!(pointer, Type, field, word)` for
/// one word of an array.
macro_rules! load32 {
    ($at:expr, $type:ty, $field:ident $(. $inner:ident)? $(, $word:literal)?) => {{
        let value: u64;
        // SAFETY: a load of a field through a pointer that the verifier checks.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({at} + {offset})",
                value = out(reg) value,
                at = in(reg) $at,
                offset = const core::mem::offset_of!($type, $field $(. $inner)?) $(+ 4 * $word)?,
            );
        }
        value as u32
    }};
}

/// A field of 2 bytes.
macro_rules! load16 {
    ($at:expr, $type:ty, $field:ident) => {{
        let value: u64;
        // SAFETY: a load of a field through a pointer that the verifier checks.
        unsafe {
            core::arch::asm!(
                "{value} = *(u16 *)({at} + {offset})",
                value = out(reg) value,
                at = in(reg) $at,
                offset = const core::mem::offset_of!($type, $field),
            );
        }
        value as u16
    }};
}

/// A field of 8 bytes, or a pointer (cast it).
macro_rules! load64 {
    ($at:expr, $type:ty, $field:ident $(. $inner:ident)?) => {{
        let value: u64;
        // SAFETY: a load of a field through a pointer that the verifier checks.
        unsafe {
            core::arch::asm!(
                "{value} = *(u64 *)({at} + {offset})",
                value = out(reg) value,
                at = in(reg) $at,
                offset = const core::mem::offset_of!($type, $field $(. $inner)?),
            );
        }
        value
    }};
}

/// An address of four fields.
macro_rules! load_address {
    ($at:expr, $type:ty, $field:ident) => {
        probe_common::address::from_fields([
            load32!($at, $type, $field, 0),
            load32!($at, $type, $field, 1),
            load32!($at, $type, $field, 2),
            load32!($at, $type, $field, 3),
        ])
    };
}

pub(super) use {load_address, load16, load32, load64};
