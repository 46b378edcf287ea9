//! Programs run to their end inside a namespace, and bounded waiting.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rnet_kernel::Netns;
use serde_json::Value;

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub words: String,
    /// Exit code; 128 + N if signal N ended it.
    pub code: i32,
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// Asserts success.
    ///
    /// # Panics
    /// When it failed, with what it said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "{} ended with {}\n{}{}", self.words, self.code, self.out, self.err);
        self
    }

    /// Asserts a refusal: this exit code, and every one of `words` in the error.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert!(self.code == code, "{} ended with {}, not {code}\n{}{}", self.words, self.code, self.out, self.err);
        assert!(self.err.starts_with("error: "), "{}: no error line\n{}", self.words, self.err);
        for word in words {
            assert!(self.err.contains(word), "{}: no {word:?} in\n{}", self.words, self.err);
        }
        self
    }

    /// Its stdout as JSON.
    ///
    /// # Panics
    /// When it failed or printed something else.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.clone().ok();
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{}: no JSON ({e}):\n{}", self.words, self.out))
    }
}

/// Runs a program inside a namespace, on a thread that ends with it.
///
/// # Panics
/// When it cannot be started.
pub fn run_in(netns: &Netns, command: &mut Command) -> Output {
    run_fed(netns, command, b"")
}

/// The same for a program that reads `input`, which has to fit into a pipe: 64 KiB.
///
/// # Panics
/// When it cannot be started.
pub fn run_fed(netns: &Netns, command: &mut Command, input: &[u8]) -> Output {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    let begun = Instant::now();
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let fed = || {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program may end without having read all of it.
            let _ = stdin.write_all(input);
        }
        child.wait_with_output()
    };
    let output = netns.run(fed).expect("root may enter a namespace");
    let output = output.unwrap_or_else(|e| panic!("cannot start {words}: {e}"));
    let signal = || std::os::unix::process::ExitStatusExt::signal(&output.status).map_or(-1, |s| 128 + s);
    Output {
        words,
        code: output.status.code().unwrap_or_else(signal),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: begun.elapsed(),
    }
}

/// Looks again and again whether it is so, until the deadline.
///
/// # Panics
/// When it is not so by then.
#[track_caller]
pub fn wait_for(what: &str, limit: Duration, mut so: impl FnMut() -> bool) {
    const PAUSE: Duration = Duration::from_millis(2);
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < limit, "waited {limit:?} for {what}");
        #[allow(clippy::disallowed_methods, reason = "between two looks, with a deadline")]
        std::thread::sleep(PAUSE);
    }
}

/// A path as text.
///
/// # Panics
/// When it is no UTF-8, which no path of a test is.
pub fn path_text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// A program that was built with the workspace.
///
/// # Panics
/// When it was not.
pub fn built(name: &str) -> PathBuf {
    // target/debug/deps/TEST, and the programs in target/debug.
    let test = std::env::current_exe().expect("a process has a program");
    let path = test.parent().and_then(Path::parent).expect("a test is in target/PROFILE/deps").join(name);
    assert!(path.exists(), "{} is missing: build it first with `cargo build --workspace`", path.display());
    path
}

/// A command that ends with the thread that starts it, inside a namespace that has a file.
pub(crate) fn lasting(netns: Option<&Path>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    if let Some(file) = netns {
        command.arg("nsenter").arg(format!("--net={}", file.display())).arg("--");
    }
    command.arg(program);
    command
}
