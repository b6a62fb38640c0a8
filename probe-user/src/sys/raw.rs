//! bpf(2) commands that Aya does not offer.
