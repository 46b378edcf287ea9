//! `rnet lab`: deploys, inspects and destroys the labs of topology files.
//!
//! Deploy is plan -> apply -> verify: what netd says is there and what the record of an earlier deploy says is ours
//! give the plan; a failed step undoes the ones before it; at the end the plan is made again and must be empty.

mod book;
mod container;
mod inspect;
mod netns;
mod world;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use rnet_api::ApiError;
use rnet_model::Kind;
use rnet_topology::{Executed, Failure, Lab, NodeBody, Plan, Record, apply};
use serde_json::json;

use crate::progress::Progress;
use crate::{Context, output};
use book::Book;
use world::{Containing, RealWorld};

/// Subcommands of `rnet lab`.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Make what a topology file describes; again: change only what differs
    Deploy(Deploy),
    /// Remove everything that a lab made, and check that nothing is left
    Destroy(Destroy),
    /// Show nodes, interfaces and links of a lab; without a lab: list the labs
    #[command(visible_alias = "ls")]
    Inspect(Inspect),
    /// Run a command in a node
    Exec(Exec),
}

/// Options of `rnet lab deploy`.
#[derive(Debug, Args)]
pub struct Deploy {
    /// Topology file, or a directory with one *.clab.yml
    #[arg(short = 't', long = "topo", value_name = "FILE")]
    topology: PathBuf,
    /// Root file system of an image named in the file
    #[arg(long = "image", value_name = "NAME=DIR", value_parser = image)]
    images: Vec<(String, PathBuf)>,
    /// Print what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Options of `rnet lab destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    #[command(flatten)]
    which: Which,
    /// Every lab of this instance
    #[arg(long, conflicts_with_all = ["topology", "name"])]
    all: bool,
}

/// Options of `rnet lab inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    which: Which,
}

/// Options of `rnet lab exec`.
#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    which: Which,
    /// Node of the lab
    node: String,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Which lab.
#[derive(Debug, Args)]
struct Which {
    /// Topology file the lab was deployed from
    #[arg(short = 't', long = "topo", value_name = "FILE")]
    topology: Option<PathBuf>,
    /// Name of the lab
    #[arg(long, value_name = "LAB", conflicts_with = "topology")]
    name: Option<String>,
}

fn image(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => {
            let dir = std::path::absolute(dir).map_err(|e| e.to_string())?;
            Ok((name.to_owned(), dir))
        }
        _ => Err("write it as alpine:3=/srv/rootfs/alpine".to_owned()),
    }
}

/// Runs one subcommand; the exit code.
pub fn dispatch(command: LabCommand, context: &Context) -> Result<u8, ApiError> {
    match command {
        LabCommand::Deploy(options) => deploy(&options, context),
        LabCommand::Destroy(options) => destroy(&options, context),
        LabCommand::Inspect(options) => inspect::run(&options.which, context),
        LabCommand::Exec(options) => exec(&options, context),
    }
}

fn deploy(options: &Deploy, context: &Context) -> Result<u8, ApiError> {
    let begin = Instant::now();
    let file = topology_file(&options.topology)?;
    let images: BTreeMap<String, PathBuf> = options.images.iter().cloned().collect();
    let lab = Lab::load(&file, &images)?;
    check_files(&lab)?;
    lab.warnings.iter().for_each(|w| warn(w));
    let file = std::path::absolute(&file).map_err(|e| cannot("find", &file, &e))?;
    let book = Book::open(&context.root)?;
    let before = book.read(&lab.name)?;
    let mut world = RealWorld::new(context);
    let about = Containing::of(Some(&lab), before.as_ref());
    let observed = world.observe(about)?;
    let plan = Plan::deploy(&lab, &file, before.as_ref(), &observed)?;
    if options.dry_run {
        report(context, &lab, &plan, "planned", &[], begin)?;
        return Ok(0);
    }
    let outcome = match (&before, plan.steps.is_empty()) {
        (None, _) => "created",
        (Some(_), true) => "unchanged",
        (Some(_), false) => "changed",
    };
    // Written first: a deploy that is killed half way can be destroyed.
    let both = union(before.as_ref(), &plan.record);
    book.write(&both)?;
    let progress = Progress::steps(format!("deploying {}", lab.name), plan.steps.len());
    let shown = |step: &rnet_topology::Step| {
        if !context.json {
            progress.aside(|| print(&format!("{step}\n")));
        }
        progress.step();
    };
    let executed = match apply(&plan, &observed, &mut world, &mut |step| shown(step)) {
        Ok(executed) => executed,
        Err(failure) => return Err(failed(&book, before.as_ref(), &both, failure, &lab.name)),
    };
    drop(progress);
    book.write(&plan.record)?;
    let rest = Plan::deploy(&lab, &file, Some(&plan.record), &world.observe(about)?)?;
    if let Some(step) = rest.steps.first() {
        return Err(ApiError::new(Kind::Retry, format!("lab {} is not as planned; missing: {step}", lab.name))
            .hint("something else changes it; `rnet lab deploy` again repairs it"));
    }
    report(context, &lab, &plan, outcome, &executed, begin)?;
    Ok(0)
}

/// What the file names must be there before anything is made.
fn check_files(lab: &Lab) -> Result<(), ApiError> {
    let missing = |what: &str, path: &Path, node: &str| {
        ApiError::new(Kind::Missing, format!("node {node}: the {what} {} is not there", path.display()))
    };
    for node in &lab.nodes {
        let NodeBody::Rootfs(process) = &node.body else { continue };
        if !process.rootfs.is_dir() {
            return Err(missing("root file system", &process.rootfs, &node.name));
        }
        if let Some(bind) = process.binds.iter().find(|b| !b.source.exists()) {
            return Err(missing("source of a bind,", &bind.source, &node.name));
        }
    }
    Ok(())
}

fn union(before: Option<&Record>, after: &Record) -> Record {
    let mut both = after.clone();
    if let Some(before) = before {
        before.nodes.iter().for_each(|(name, node)| {
            both.nodes.entry(name.clone()).or_insert_with(|| node.clone());
        });
        both.bridges.extend(before.bridges.iter().cloned());
        both.ports.extend(before.ports.iter().cloned());
    }
    both
}

/// After a failed deploy the record says again what is there.
fn failed(book: &Book, before: Option<&Record>, both: &Record, failure: Failure, lab: &str) -> ApiError {
    let Failure { mut error, rollback } = failure;
    let kept = match (rollback.is_empty(), before) {
        (true, Some(before)) => book.write(before),
        (true, None) => book.remove(lab),
        (false, _) => book.write(both),
    };
    for failed in rollback.iter().chain(kept.as_ref().err()) {
        warn(&format!("roll-back: {}", failed.chain()));
    }
    error.message = format!("deploy of lab {lab}: {}", error.message);
    if !rollback.is_empty() {
        error.hint.get_or_insert_with(|| format!("not all could be undone: rnet lab destroy --name {lab}"));
    }
    error
}

fn report(
    context: &Context,
    lab: &Lab,
    plan: &Plan,
    outcome: &str,
    executed: &[Executed],
    begin: Instant,
) -> Result<(), ApiError> {
    for done in executed.iter().filter(|e| e.code != 0) {
        warn(&format!(
            "exec {}: {}: exit code {}: {}",
            done.container,
            done.command.join(" "),
            done.code,
            done.output.trim_end()
        ));
    }
    if context.json {
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        return output::json(&json!({ "lab": lab.name, "outcome": outcome, "steps": steps, "exec": executed }));
    }
    if outcome == "planned" {
        plan.steps.iter().for_each(|s| print(&format!("{s}\n")));
    }
    let links = lab.links.len() + lab.ports.len();
    print(&format!(
        "lab {}: {outcome}; {}, {}, {} in {:.2} s\n",
        lab.name,
        count(lab.nodes.len(), "node"),
        count(lab.bridges.len(), "bridge"),
        count(links, "link"),
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn destroy(options: &Destroy, context: &Context) -> Result<u8, ApiError> {
    let book = Book::open(&context.root)?;
    let records = match (options.all, &options.which.name) {
        (true, _) => book.all()?,
        // A name may be mistyped; of a file or of all it is known what is meant.
        (false, Some(_)) => vec![book.find(&options.which)?.ok_or_else(|| not_deployed(&options.which))?],
        (false, None) => book.find(&options.which)?.into_iter().collect(),
    };
    let names: Vec<String> = records.iter().map(|r| r.lab.clone()).collect();
    for record in &records {
        destroy_one(&book, record, context)?;
    }
    if context.json {
        output::json(&json!({ "destroyed": names }))?;
    } else if names.is_empty() {
        print("nothing to destroy\n");
    }
    Ok(0)
}

fn destroy_one(book: &Book, record: &Record, context: &Context) -> Result<(), ApiError> {
    let begin = Instant::now();
    let mut world = RealWorld::new(context);
    let observed = world.observe(Containing::of(None, Some(record)))?;
    let plan = Plan::destroy(record, &observed);
    let mut steps = 0;
    // One step that fails does not keep the others from being removed; the record stays until all are.
    let mut errors = Vec::new();
    let progress = Progress::steps(format!("destroying {}", record.lab), plan.steps.len());
    for step in &plan.steps {
        let one = Plan { steps: vec![step.clone()], record: plan.record.clone(), unchanged: 0 };
        match apply(&one, &observed, &mut world, &mut |_| ()) {
            Ok(_) => steps += 1,
            Err(failure) => errors.push(failure.error),
        }
        if !context.json {
            progress.aside(|| print(&format!("{step}\n")));
        }
        progress.step();
    }
    drop(progress);
    let mut errors = errors.into_iter();
    if let Some(mut first) = errors.next() {
        errors.for_each(|e| warn(&e.chain()));
        first.message = format!("destroy of lab {}: {}", record.lab, first.message);
        return Err(first);
    }
    let left = world.left_of(record, &observed)?;
    if !left.is_empty() {
        return Err(ApiError::new(Kind::Retry, format!("lab {} is not gone; left: {}", record.lab, left.join(", ")))
            .hint("repeat the destroy"));
    }
    book.remove(&record.lab)?;
    if !context.json {
        let took = begin.elapsed().as_secs_f64();
        print(&format!("lab {}: destroyed, {steps} steps, nothing left, in {took:.2} s\n", record.lab));
    }
    Ok(())
}

fn exec(options: &Exec, context: &Context) -> Result<u8, ApiError> {
    // Not kept open: it holds the lock.
    let record = Book::open(&context.root)?.find(&options.which)?.ok_or_else(|| not_deployed(&options.which))?;
    let found = record.nodes.iter().find(|(container, n)| n.node == options.node || container.as_str() == options.node);
    let Some((container, node)) = found else {
        let known: Vec<_> = record.nodes.values().map(|n| n.node.as_str()).collect();
        return Err(ApiError::new(Kind::Missing, format!("lab {} has no node {:?}", record.lab, options.node))
            .hint(format!("its nodes: {}", known.join(" "))));
    };
    RealWorld::new(context).replace_by(container, node, &options.command)
}

fn not_deployed(which: &Which) -> ApiError {
    match (&which.topology, &which.name) {
        (Some(file), _) => ApiError::new(Kind::Missing, format!("the lab of {} is not deployed", file.display()))
            .hint(format!("deploy it: rnet lab deploy -t {}", file.display())),
        (None, Some(name)) => {
            ApiError::new(Kind::Missing, format!("there is no lab {name:?}")).hint("see: rnet lab inspect")
        }
        (None, None) => ApiError::new(Kind::Invalid, "which lab?").hint("give -t FILE or --name LAB"),
    }
}

/// A directory stands for the one topology file in it.
fn topology_file(path: &Path) -> Result<PathBuf, ApiError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let entries = std::fs::read_dir(path).map_err(|e| cannot("read", path, &e))?;
    let is_topology = |name: &str| name.ends_with(".clab.yml") || name.ends_with(".clab.yaml");
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.file_name().is_some_and(|n| is_topology(&n.to_string_lossy())))
        .collect();
    files.sort();
    match files.len() {
        0 => Err(ApiError::new(Kind::Missing, format!("there is no *.clab.yml in {}", path.display()))),
        1 => Ok(files.swap_remove(0)),
        _ => Err(ApiError::new(Kind::Invalid, format!("there are several topology files in {}", path.display()))
            .hint(format!("name one: -t {}", files[0].display()))),
    }
}

fn cannot(what: &str, path: &Path, e: &std::io::Error) -> ApiError {
    let kind = match e.kind() {
        std::io::ErrorKind::NotFound => Kind::Missing,
        std::io::ErrorKind::PermissionDenied => Kind::Denied,
        _ => Kind::Retry,
    };
    ApiError::new(kind, format!("cannot {what} {}", path.display())).because(e)
}

/// A closed pipe is no reason to stop half way through a deploy.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn warn(text: &str) {
    output::remark(&format!("warning: {text}"));
}
