//! Applies a plan: all of it, or nothing.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rnet_kernel::rules::{Changes, NfTables, Set, Table};
use rnet_kernel::{Conntrack, Filter, KernelError, Links, Sysctls};

use crate::{Action, Place, Plan, Step, fail};

/// The kernel surfaces a plan is applied to.
pub trait Surfaces {
    /// Route netlink of a place.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    fn links(&mut self, place: &Place) -> Result<&mut dyn Links, KernelError>;
    /// The packet filter.
    fn filter(&mut self) -> &mut dyn Filter;
    /// The host's other nf_tables tables.
    ///
    /// # Errors
    /// When they cannot be opened.
    fn tables(&mut self) -> Result<&mut NfTables, KernelError>;
    /// The host's connection tracking.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn flows(&mut self) -> Result<&mut Conntrack, KernelError>;
    /// Sysctls of a place.
    ///
    /// # Errors
    /// When there is no such place.
    fn sysctls(&mut self, place: &Place) -> Result<&mut dyn Sysctls, KernelError>;
}

/// Why a plan was not applied. What had been done was taken back.
#[derive(Debug, thiserror::Error)]
#[error("{}", .cause)]
pub struct Failure {
    /// Index of the step.
    pub step: usize,
    /// What the kernel said.
    pub cause: KernelError,
    /// What could not be taken back, a line each; empty in every ordinary case.
    pub left: Vec<String>,
}

impl Failure {
    /// Whether something came or went between the making of the plan and its application.
    pub fn overtaken(&self) -> bool {
        matches!(self.cause.errno, libc::EEXIST | libc::ENOENT | libc::EBUSY | libc::ENODEV) || self.outdated()
    }

    /// Whether nf_tables changed after the plan had looked at them: whoever makes the plan again makes headway, because
    /// somebody else just did.
    pub fn outdated(&self) -> bool {
        self.cause.errno == ERESTART
    }
}

/// Applies all steps in order. When one fails, its undo and those of the steps before it run in reverse order.
///
/// # Errors
/// The first failure.
pub fn apply(plan: &Plan, surfaces: &mut dyn Surfaces) -> Result<(), Failure> {
    for (index, step) in plan.steps.iter().enumerate() {
        fail::point(step.point);
        match run(&step.action, surfaces) {
            Ok(()) => fail::done(step.point),
            Err((cause, effect)) => {
                let begun = match effect {
                    Effect::None => &plan.steps[..index],
                    Effect::Partial => &plan.steps[..=index],
                };
                let left = undo(begun, surfaces);
                return Err(Failure { step: index, cause, left });
            }
        }
    }
    Ok(())
}

/// Takes back applied steps, last first. Returns what could not be taken back.
pub fn undo(steps: &[Step], surfaces: &mut dyn Surfaces) -> Vec<String> {
    let mut left = Vec::new();
    for step in steps.iter().rev() {
        for action in &step.undo {
            if let Err((error, _)) = run(action, surfaces) {
                tracing::warn!(step = step.point, %error, "cannot take back");
                left.push(error.to_string());
            }
        }
    }
    left
}

/// What a failed action changed nevertheless. Undoing what never happened could hit somebody else's object: a veth that
/// was refused because the name is taken must not be deleted by that name.
enum Effect {
    None,
    Partial,
}

fn run(action: &Action, surfaces: &mut dyn Surfaces) -> Result<(), (KernelError, Effect)> {
    let whole = |e| (e, Effect::None);
    match action {
        Action::Links(place, ops) => {
            let faults = surfaces.links(place).map_err(whole)?.batch(ops).map_err(|e| (e, Effect::Partial))?;
            let effect = if faults.len() == ops.len() { Effect::None } else { Effect::Partial };
            match faults.into_iter().next() {
                Some(fault) => Err((fault.error, effect)),
                None => Ok(()),
            }
        }
        Action::Filter { add, remove } => surfaces.filter().change(add, remove).map_err(whole),
        Action::Sysctl { place, key, value } => {
            surfaces.sysctls(place).and_then(|sysctls| sysctls.set(key, value)).map_err(whole)
        }
        Action::Tables(changes) if changes.is_empty() => Ok(()),
        Action::Tables(changes) => surfaces.tables().and_then(|tables| tables.commit(changes, None)).map_err(whole),
        Action::TablesUnlessChanged(changes, generation) => {
            surfaces.tables().and_then(|tables| tables.commit(changes, Some(*generation))).map_err(whole)
        }
        Action::RemoveUnused(table, sets) => {
            surfaces.tables().and_then(|tables| remove_unused(tables, table, sets)).map_err(whole)
        }
        Action::ForgetFlows(flows) if flows.is_empty() => Ok(()),
        Action::ForgetFlows(flows) => surfaces
            .flows()
            .and_then(|conntrack| conntrack.delete_any(flows))
            .map(drop)
            .map_err(|e| (e, Effect::Partial)),
        Action::File { path, contents: Some(contents) } => write(path, contents).map_err(whole),
        Action::File { path, contents: None } => remove(path).map_err(whole),
    }
}

/// The kernel's own errno of an overtaken transaction (include/linux/errno.h).
const ERESTART: i32 = 85;
const ENOENT: i32 = 2;

/// Somebody may add an element between the look and the removal: then the generation has moved, and it is looked at
/// again. A table that changes all the time is in use.
fn remove_unused(tables: &mut NfTables, table: &Table, sets: &[Set]) -> Result<(), KernelError> {
    const LOOKS: u32 = 4;
    for _ in 0..LOOKS {
        let generation = tables.generation()?;
        if !tables.table_exists(table)? {
            return Ok(());
        }
        for set in sets {
            match tables.any_element(table, &set.name) {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                // Somebody else removed the table since.
                Err(e) if e.errno == ENOENT => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        match tables.commit(Changes::new().destroy_table(table), Some(generation)) {
            Err(e) if e.errno == ERESTART => {}
            other => return other,
        }
    }
    Ok(())
}

/// By way of a second file, so that a crash leaves the old one or the new one.
fn write(path: &Path, contents: &[u8]) -> Result<(), KernelError> {
    let written = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let fresh = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(contents)?;
        std::fs::rename(&fresh, path)
    };
    written().map_err(|e| KernelError::io(format!("write {}", path.display()), &e))
}

fn remove(path: &Path) -> Result<(), KernelError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(KernelError::io(format!("remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}
