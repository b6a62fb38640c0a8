//! The command line: validate, lab, verify.

fn main() {}
