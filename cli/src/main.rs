//! The `rnet` binary.

fn main() -> std::process::ExitCode {
    rnet_cli::run()
}
