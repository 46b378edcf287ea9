//! Steps and plans as values.

use std::fmt;
use std::path::PathBuf;

use rnet_kernel::rules::{Changes, Set, Table};
use rnet_kernel::{FilterChange, FlowFilter, LinkOp, Netns};

/// Whose route netlink a batch is sent to.
#[derive(Debug, Clone)]
pub enum Place {
    /// The daemon's own namespace.
    Host,
    /// A container's namespace.
    Inside(Netns),
}

impl Place {
    fn prefix(&self) -> String {
        match self {
            Place::Host => String::new(),
            Place::Inside(ns) => format!("[{ns}] "),
        }
    }
}

/// One request to the kernel.
#[derive(Debug, Clone)]
pub enum Action {
    /// A batch of link changes, one datagram.
    Links(Place, Vec<LinkOp>),
    /// One nf_tables transaction on netd's own tables.
    Filter {
        /// Facts to add.
        add: Vec<FilterChange>,
        /// Facts to remove.
        remove: Vec<FilterChange>,
    },
    /// Writes a value below /proc/sys of a place.
    Sysctl {
        /// Whose setting it is.
        place: Place,
        /// `net/ipv4/ip_forward`.
        key: String,
        /// Value.
        value: String,
    },
    /// One nf_tables transaction on tables other than netd's own.
    Tables(Changes),
    /// The same, refused (errno 85, ERESTART) when anything in nf_tables has changed since this generation: what was
    /// looked at may no longer hold, and the plan has to be made again.
    TablesUnlessChanged(Changes, u32),
    /// Removes a table if none of these sets has an element.
    RemoveUnused(Table, Vec<Set>),
    /// The host's connection tracking forgets the flows that fit any of these. After the change of the rules that the
    /// flows were translated by: they are made again from their next packet on.
    ForgetFlows(Vec<FlowFilter>),
    /// Writes a file, or removes it: what a plugin has to remember until its undo. Folders are made, for root alone.
    File {
        /// Where.
        path: PathBuf,
        /// What; `None` = no file.
        contents: Option<Vec<u8>>,
    },
}

/// An action, the fail point it passes, and what takes it back.
#[derive(Debug, Clone)]
pub struct Step {
    /// Fail point; the executor passes `point` before the action and `point.done` after it.
    pub point: &'static str,
    /// What to do.
    pub action: Action,
    /// What takes it back, in order. Also sent when the action itself failed half way: undo verbs are idempotent.
    pub undo: Vec<Action>,
}

/// Steps in order.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Adds a step that needs no undo of its own.
    pub fn step(&mut self, point: &'static str, action: Action) {
        self.steps.push(Step { point, action, undo: Vec::new() });
    }

    /// Adds a step with its undo.
    pub fn undoable(&mut self, point: &'static str, action: Action, undo: Vec<Action>) {
        self.steps.push(Step { point, action, undo });
    }

    /// One line per kernel operation, in the words of ip(8) and nft(8).
    pub fn lines(&self) -> Vec<String> {
        self.steps.iter().flat_map(|s| s.action.lines()).collect()
    }
}

impl Action {
    /// One line per kernel operation.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Action::Links(place, ops) => ops.iter().map(|op| format!("{}ip {op}", place.prefix())).collect(),
            Action::Filter { add, remove } => {
                let remove = remove.iter().map(|e| format!("packet filter: no longer {e}"));
                remove.chain(add.iter().map(|e| format!("packet filter: {e}"))).collect()
            }
            Action::Sysctl { place, key, value } => {
                vec![format!("{}sysctl {}={value}", place.prefix(), key.replace('/', "."))]
            }
            Action::Tables(changes) | Action::TablesUnlessChanged(changes, _) => {
                changes.to_string().lines().map(|line| format!("nft {line}")).collect()
            }
            Action::RemoveUnused(table, _) => vec![format!("nft delete table {}, unless it is used", table.name)],
            Action::ForgetFlows(flows) => flows.iter().map(|flow| format!("conntrack -D {flow}")).collect(),
            Action::File { path, contents: Some(_) } => vec![format!("write {}", path.display())],
            Action::File { path, contents: None } => vec![format!("remove {}", path.display())],
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
