//! [`Sysctls`] in memory.

use std::collections::BTreeMap;

use crate::sysctl::path;
use crate::{KernelError, Sysctls};

/// Settings of one namespace. Only those it was given exist.
#[derive(Debug, Clone, Default)]
pub struct FakeSysctls {
    values: BTreeMap<String, String>,
    done: Vec<String>,
}

impl FakeSysctls {
    /// With these settings.
    pub fn new<'a>(values: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let values = values.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        FakeSysctls { values, done: Vec::new() }
    }

    /// What was set so far, `KEY=VALUE` each.
    pub fn done(&self) -> &[String] {
        &self.done
    }
}

impl Sysctls for FakeSysctls {
    fn get(&mut self, key: &str) -> Result<Option<String>, KernelError> {
        path(key)?;
        Ok(self.values.get(key).cloned())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), KernelError> {
        path(key)?;
        let there =
            self.values.get_mut(key).ok_or_else(|| KernelError::os(format!("sysctl {key}={value}"), libc::ENOENT))?;
        value.clone_into(there);
        self.done.push(format!("{key}={value}"));
        Ok(())
    }
}
