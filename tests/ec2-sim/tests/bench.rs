//! The benchmark measures, and writes what programs and people read; how fast anything was is not judged.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// The agent that `NODE_AGENT` names, or else the one that was built beside this test.
fn agent() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let beside = test.ancestors().nth(2).unwrap().join("node-agent");
    let agent = std::env::var_os("NODE_AGENT").map_or(beside, PathBuf::from);
    assert!(agent.exists(), "{} is not there: build the workspace", agent.display());
    agent
}

#[test]
fn the_benchmark_writes_its_results_as_json_as_a_plot_and_into_a_document() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("page.md"), "before\n<!-- bench -->\nold\n<!-- end of bench -->\nafter\n").unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.env("NODE_AGENT", agent()).args(["--only", "boots,fleet", "--runs", "1", "--gib", "1", "--agents", "3"]);
    bench.args(["--rows", "blank, nothing to wait for", "--json", &path("results.json")]);
    bench.args(["--plot", &path("plot.svg"), "--document", &path("page.md")]);

    let output = bench.output().unwrap();

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&std::fs::read(path("results.json")).unwrap()).unwrap();
    for key in ["schema", "about", "boots", "aims", "fleet", "roll", "sections"] {
        assert!(!results[key].is_null(), "{key}");
    }
    let names: Vec<_> = results["boots"].as_array().unwrap().iter().map(|boot| &boot["name"]).collect();
    assert_eq!(names, ["xfs, blank, nothing to wait for", "ext4, blank, nothing to wait for"]);
    for key in ["to_continue", "bare", "floor", "ratio", "cpu_own", "peak", "api_calls", "s3_calls", "imds_calls"] {
        assert!(results["boots"].as_array().unwrap().iter().all(|boot| boot[key]["median"].is_number()), "{key}");
    }
    let fleet = &results["fleet"][0];
    assert_eq!((&fleet["agents"], &fleet["failures"]), (&3.into(), &0.into()), "{fleet}");
    assert!(fleet["calls"]["ec2:AttachVolume"][0].as_u64() >= Some(3), "{fleet}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let page = std::fs::read_to_string(path("page.md")).unwrap();
    assert_eq!(page, format!("before\n<!-- bench -->\n{printed}<!-- end of bench -->\nafter\n"));
    let plot = std::fs::read_to_string(path("plot.svg")).unwrap();
    assert!(plot.starts_with("<svg ") && plot.trim_end().ends_with("</svg>"), "{plot}");
    assert_eq!(plot.matches("class=\"bar\"").count(), 3, "{plot}");
}
