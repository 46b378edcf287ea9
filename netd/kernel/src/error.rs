//! What the kernel refused, on which object, and in its own words.

use rnet_model::Kind;

/// A refused operation.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation}: {}", self.said())]
pub struct KernelError {
    /// The operation and its object, in the words of ip(8) or of the file.
    pub operation: String,
    /// errno(3), positive; 0 when the failure is not the kernel's.
    pub errno: i32,
    /// The kernel's extended acknowledgement (`NLMSGERR_ATTR_MSG`), or a text of ours.
    pub text: Option<String>,
    /// What the user can do about it, when that is known.
    pub hint: Option<String>,
}

impl KernelError {
    /// A failure with an errno.
    pub fn os(operation: impl Into<String>, errno: i32) -> Self {
        KernelError { operation: operation.into(), errno, text: None, hint: None }
    }

    /// From a failed system call.
    pub fn io(operation: impl Into<String>, error: &std::io::Error) -> Self {
        KernelError {
            operation: operation.into(),
            errno: error.raw_os_error().unwrap_or(0),
            text: error.raw_os_error().is_none().then(|| error.to_string()),
            hint: None,
        }
    }

    /// A failure in words.
    pub fn text(operation: impl Into<String>, text: impl Into<String>) -> Self {
        KernelError { operation: operation.into(), errno: 0, text: Some(text.into()), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Why, without the operation.
    pub fn said(&self) -> String {
        let errno = || nix::errno::Errno::from_raw(self.errno).desc().to_owned();
        match (&self.text, self.errno) {
            (Some(text), 0) => text.clone(),
            (Some(text), _) => format!("{text} ({})", errno()),
            (None, _) => errno(),
        }
    }

    /// What the failure means to the caller.
    pub fn kind(&self) -> Kind {
        match self.errno {
            libc::EEXIST | libc::EBUSY | libc::EADDRINUSE | libc::EXFULL => Kind::Conflict,
            libc::ENODEV | libc::ENOENT | libc::ESRCH => Kind::Missing,
            libc::EPERM | libc::EACCES => Kind::Denied,
            libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT => Kind::Unsupported,
            libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC => {
                Kind::Retry
            }
            libc::EINVAL | libc::ERANGE | libc::ENETUNREACH | libc::EADDRNOTAVAIL => Kind::Invalid,
            0 => Kind::Invalid,
            _ => Kind::Bug,
        }
    }
}
