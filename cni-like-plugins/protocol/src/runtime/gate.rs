//! Who may run when: one operation at a time for a container, and GC alone (section 2 of the CNI specification,
//! "Lifecycle & Ordering").

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

/// Where operations wait for each other. They block the thread.
#[derive(Debug, Default)]
pub struct Gate {
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    containers: HashSet<String>,
    collecting: bool,
    /// GCs that wait. Nobody new is let in, or a busy host would never collect.
    waiting: usize,
}

/// Leave to run, until it is dropped.
#[derive(Debug)]
pub struct Pass<'a> {
    gate: &'a Gate,
    /// `None` for GC.
    container: Option<String>,
}

impl Gate {
    /// Waits for ADD, DEL and CHECK of the same container and for GC.
    ///
    /// # Errors
    /// Code 11 after `time`.
    pub fn container(&self, id: &str, time: Duration) -> Result<Pass<'_>, Error> {
        let free = |inside: &Inside| !inside.collecting && inside.waiting == 0 && !inside.containers.contains(id);
        let mut inside = self.wait(self.lock(), time, free);
        if !free(&inside) {
            return Err(busy(&format!("container {id}"), time));
        }
        inside.containers.insert(id.to_owned());
        Ok(Pass { gate: self, container: Some(id.to_owned()) })
    }

    /// Waits for everything that runs, and holds what comes later.
    ///
    /// # Errors
    /// Code 11 after `time`.
    pub fn collection(&self, time: Duration) -> Result<Pass<'_>, Error> {
        let free = |inside: &Inside| !inside.collecting && inside.containers.is_empty();
        let mut inside = self.lock();
        inside.waiting += 1;
        inside = self.wait(inside, time, free);
        inside.waiting -= 1;
        if !free(&inside) {
            drop(inside);
            self.changed.notify_all();
            return Err(busy("garbage collection", time));
        }
        inside.collecting = true;
        Ok(Pass { gate: self, container: None })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        mut inside: MutexGuard<'a, Inside>,
        time: Duration,
        free: impl Fn(&Inside) -> bool,
    ) -> MutexGuard<'a, Inside> {
        let deadline = Instant::now() + time;
        while !free(&inside) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inside = self.changed.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inside
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        match &self.container {
            Some(id) => drop(inside.containers.remove(id)),
            None => inside.collecting = false,
        }
        drop(inside);
        self.gate.changed.notify_all();
    }
}

fn busy(what: &str, time: Duration) -> Error {
    Error::new(Error::TRY_AGAIN_LATER, format!("{what} had to wait for others longer than {time:?}"))
}
