//! `rnet hook install`: tells engines and runtimes about the hook.

use std::path::{Path, PathBuf};

use rnet_api::{ApiError, Root};
use rnet_model::Kind;
use serde_json::{Value, json};

use crate::{Context, output};

/// Seconds after which an engine ends the hook. Longer than the hook's own limit, so that its undo gets done.
const TIMEOUT: u64 = 60;

/// The two stages: what the OCI runtime specification calls them, and so does `rnet hook`.
const STAGES: [&str; 2] = ["createRuntime", "poststop"];

pub(super) fn install(dir: Option<&Path>, ctx: &Context) -> Result<u8, ApiError> {
    let dir = &dir.map_or_else(|| default_dir(&ctx.root), Path::to_owned);
    let program = std::env::current_exe()
        .map_err(|e| ApiError::new(Kind::Retry, "cannot find out the path of this program").because(&e))?;
    std::fs::create_dir_all(dir).map_err(|e| failed("cannot make the directory", dir, &e))?;
    for stage in STAGES {
        let path = dir.join(format!("rnet-{}.json", stage.to_ascii_lowercase()));
        let mut text = pretty(&definition(&program, &ctx.root, stage))?;
        text.push('\n');
        std::fs::write(&path, text).map_err(|e| failed("cannot write", &path, &e))?;
        output::remark(&format!("wrote {}", path.display()));
    }
    if !ctx.json {
        output::remark("Podman and CRI-O find these by themselves. For runc or crun put this into config.json:");
    }
    output::text(&format!("{}\n", pretty(&fragment(&program, &ctx.root))?))?;
    Ok(0)
}

fn pretty(value: &Value) -> Result<String, ApiError> {
    serde_json::to_string_pretty(value).map_err(|e| ApiError::new(Kind::Bug, "cannot encode the hook").because(&e))
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> ApiError {
    let kind = if error.kind() == std::io::ErrorKind::PermissionDenied { Kind::Denied } else { Kind::Retry };
    let error = ApiError::new(kind, format!("{what} {}", path.display())).because(error);
    if kind == Kind::Denied { error.hint("run as root, or choose a directory with --dir") } else { error }
}

/// One hook as in the `hooks` of config.json.
fn entry(program: &Path, root: &Root, stage: &str) -> Value {
    let mut args = vec!["rnet".to_owned()];
    if let Some(dir) = &root.private {
        args.extend(["--root".to_owned(), dir.display().to_string()]);
    }
    args.extend(["hook".to_owned(), stage.to_owned()]);
    json!({"path": program, "args": args, "timeout": TIMEOUT})
}

/// A file of hooks.d, see oci-hooks(5): called for containers with an annotation whose key begins with `rnet.`.
fn definition(program: &Path, root: &Root, stage: &str) -> Value {
    json!({
        "version": "1.0.0",
        "hook": entry(program, root, stage),
        "when": {"annotations": {r"^rnet\.": ".*"}},
        "stages": [stage],
    })
}

/// The part of config.json.
fn fragment(program: &Path, root: &Root) -> Value {
    let hooks: serde_json::Map<String, Value> =
        STAGES.iter().map(|stage| ((*stage).to_owned(), json!([entry(program, root, stage)]))).collect();
    json!({"hooks": hooks})
}

/// Where Podman and CRI-O look for definitions of the administrator. A private instance leaves the machine alone.
fn default_dir(root: &Root) -> PathBuf {
    root.private.as_ref().map_or_else(|| "/etc/containers/oci/hooks.d".into(), |dir| dir.join("hooks.d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_is_named() {
        let private = Root::from_option(Some("/srv/x".into()));
        let text = fragment(Path::new("/usr/bin/rnet"), &private).to_string();
        assert_eq!(
            text,
            r#"{"hooks":{"createRuntime":[{"args":["rnet","--root","/srv/x","hook","createRuntime"],"path":"/usr/bin/rnet","timeout":60}],"poststop":[{"args":["rnet","--root","/srv/x","hook","poststop"],"path":"/usr/bin/rnet","timeout":60}]}}"#
        );
        let machine = definition(Path::new("/usr/bin/rnet"), &Root::from_option(None), "poststop");
        assert_eq!(machine["hook"]["args"], json!(["rnet", "hook", "poststop"]));
        assert_eq!(machine["stages"], json!(["poststop"]));
    }
}
