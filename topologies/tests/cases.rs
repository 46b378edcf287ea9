//! Golden cases: `cases/NAME/lab.clab.yml` gives `plan.txt` or `error.txt`. `UPDATE_GOLDEN=1` writes them anew.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rnet_topology::{Inputs, Lab, NodeBody, Observed, Plan, TopologyError};

fn outcome(dir: &Path) -> (&'static str, String) {
    let text = std::fs::read_to_string(dir.join("lab.clab.yml")).unwrap();
    let images = BTreeMap::from([("given:latest".to_owned(), PathBuf::from("/rootfs/given"))]);
    let variable = |name: &str| match name {
        "PORT" => Some("8080".to_owned()),
        "HOME" => Some("/home/user".to_owned()),
        _ => None,
    };
    let file = Path::new("dir/lab.clab.yml");
    match Lab::parse(&text, &Inputs { file, directory: Path::new("/labs"), variable: &variable, images: &images }) {
        Ok(lab) => ("plan.txt", describe(&lab, file)),
        Err(e) => ("error.txt", error(&e)),
    }
}

fn error(e: &TopologyError) -> String {
    let hint = e.hint().map(|h| format!("hint: {h}\n")).unwrap_or_default();
    format!("{:?}: {e}\n{hint}", e.kind())
}

fn describe(lab: &Lab, file: &Path) -> String {
    let plan = Plan::deploy(lab, file, None, &Observed::default()).unwrap();
    let mut text: String = lab.warnings.iter().map(|w| format!("warning: {w}\n")).collect();
    for step in &plan.steps {
        text.push_str(&format!("{step}\n"));
    }
    for node in &lab.nodes {
        if let NodeBody::Rootfs(process) = &node.body {
            text.push_str(&format!("{}: {}\n", node.name, serde_json::to_string(process).unwrap()));
        }
    }
    text
}

#[test]
fn golden_cases() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&cases).unwrap() {
        let dir = entry.unwrap().path();
        let (file, actual) = outcome(&dir);
        if update {
            for name in ["plan.txt", "error.txt"] {
                let _ = std::fs::remove_file(dir.join(name));
            }
            std::fs::write(dir.join(file), &actual).unwrap();
        }
        let expected = std::fs::read_to_string(dir.join(file)).unwrap_or_else(|_| format!("(no {file})"));
        if expected != actual {
            wrong.push(format!("{}\n--- {file}\n{expected}--- is\n{actual}", dir.display()));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 20, "only {count} cases were found in {}", cases.display());
}

#[test]
fn gallery_files_parse() {
    let gallery = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(gallery).unwrap() {
        let dir = entry.unwrap().path();
        let Ok(files) = std::fs::read_dir(&dir) else { continue };
        for file in files.map(|f| f.unwrap().path()).filter(|f| f.to_string_lossy().ends_with(".clab.yml")) {
            let lab = Lab::load(&file, &BTreeMap::new()).unwrap();
            assert_eq!(lab.warnings, Vec::<String>::new(), "{}", file.display());
            count += 1;
        }
    }
    assert!(count > 0, "the gallery is empty");
}
