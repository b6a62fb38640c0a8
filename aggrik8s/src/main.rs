//! The binary `aggrik8s`; everything is in the library.

fn main() -> std::process::ExitCode {
    aggrik8s::main()
}
