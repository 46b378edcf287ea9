//! `rnet logs`.

use std::io::{self, Write as _};

use clap::Args;
use rnet_api::ApiError;
use rnet_model::ContainerName;
use rnet_runtime::Store;
use rnet_runtime::logs::{Entry, Later, Reader, Stream};

use crate::{Context, output};

/// Show what a container printed
///
/// What it printed to stderr is printed to stderr. The last 10 to 20 MiB are kept.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet logs --tail 20 web
  rnet logs -ft web")]
pub(crate) struct LogsArgs {
    /// Container: name, id or unique prefix of the id
    #[arg(value_name = "CTR")]
    container: ContainerName,

    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,

    /// Begin with the last N lines [default: all]
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,

    /// Put the time of each line before it
    #[arg(short, long)]
    timestamps: bool,
}

pub(crate) fn logs(args: &LogsArgs, ctx: &Context) -> Result<u8, ApiError> {
    let container = Store::new(&ctx.root).find(&args.container)?;
    let shim = container.live()?.and_then(|live| live.shim.open());
    let later = if args.follow { Later::Follow } else { Later::Ignore };
    let mut reader = Reader::open(&container.lib(""), later)?;
    let entries = reader.read()?;
    let skipped = args.tail.map_or(0, |tail| beginning_of_last(&entries, tail));
    print(&entries[skipped..], args, ctx)?;
    let Some(shim) = shim.filter(|_| args.follow) else { return Ok(0) };
    loop {
        let ended = reader.wait(&shim)?;
        print(&reader.read()?, args, ctx)?;
        if ended {
            return Ok(0);
        }
    }
}

/// The index at which the last `lines` lines begin; a long line has several entries.
fn beginning_of_last(entries: &[Entry], lines: usize) -> usize {
    let begins = |index: usize| index == 0 || entries[index - 1].log.ends_with('\n');
    let starts: Vec<usize> = (0..entries.len()).filter(|i| begins(*i)).collect();
    match starts.len().checked_sub(lines) {
        Some(skipped) => starts.get(skipped).copied().unwrap_or(entries.len()),
        None => 0,
    }
}

fn print(entries: &[Entry], args: &LogsArgs, ctx: &Context) -> Result<(), ApiError> {
    for entry in entries {
        if ctx.json {
            let line = serde_json::to_string(entry);
            output::line(
                &line.map_err(|e| ApiError::new(rnet_model::Kind::Bug, "cannot encode the output").because(&e))?,
            )?;
            continue;
        }
        let time = if args.timestamps { format!("{} ", entry.time) } else { String::new() };
        let text = format!("{time}{}", entry.log);
        match entry.stream {
            Stream::Stdout => output::text(&text)?,
            // As with a program's own messages, nothing can be done about a closed stderr.
            Stream::Stderr => drop(io::stderr().lock().write_all(text.as_bytes())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_count_lines() {
        let entry = |text: &str| Entry { log: text.into(), stream: Stream::Stdout, time: rnet_runtime::now() };
        let entries: Vec<Entry> = ["a\n", "long", " line\n", "c\n"].map(entry).into();
        for (lines, begin) in [(0, 4), (1, 3), (2, 1), (3, 0), (9, 0)] {
            assert_eq!(beginning_of_last(&entries, lines), begin, "{lines}");
        }
        assert_eq!(beginning_of_last(&[], 3), 0);
    }
}
