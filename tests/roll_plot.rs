//! `node-agent roll --plot FILE`: where the time of a roll went, as a picture.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "roll/cluster.rs"]
mod cluster;

use std::fs;
use std::time::Duration;

use cluster::{Behaviour, Cluster, Healthy, Held, group};
use ec2_sim::{Latencies, VolumeSpec};
use nix::sys::signal::Signal;
use roxmltree::{Document, Node};

fn parsed(svg: &str) -> Document<'_> {
    Document::parse(svg).unwrap_or_else(|error| panic!("{error}\n{svg}"))
}

fn row<'a>(document: &'a Document<'_>, number: usize) -> Option<Node<'a, 'a>> {
    document.descendants().find(|node| node.attribute("data-about") == Some(&group(number)))
}

/// The tooltips of a row's bars.
fn stories<'a>(row: Node<'a, 'a>) -> Vec<&'a str> {
    let bars = row.children().filter(|node| node.has_tag_name("rect"));
    bars.filter_map(|bar| bar.first_element_child()?.text()).collect()
}

fn width_of(row: Node<'_, '_>, phase: &str) -> f64 {
    let is_it = |bar: &Node| {
        bar.first_element_child().and_then(|title| title.text()).is_some_and(|text| text.starts_with(phase))
    };
    let bar = row.children().find(is_it).unwrap_or_else(|| panic!("no {phase}: {:?}", stories(row)));
    bar.attribute("width").unwrap().parse().unwrap()
}

/// All that is shown, without the tooltips.
fn shown(node: Node<'_, '_>) -> String {
    let texts = node.descendants().filter(|node| node.has_tag_name("text"));
    let own = texts.flat_map(|text| text.children().filter(Node::is_text).filter_map(|node| node.text()));
    own.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_roll_is_drawn_with_a_row_a_node_its_phases_and_its_waits() {
    let (drain, end, interface) = (Duration::from_secs(15), Duration::from_secs(3), Duration::from_secs(6));
    let latencies = Latencies { shutting_down: end, interface: Some(interface.into()), ..Latencies::default() };
    let cluster = Cluster::new(&Behaviour { nodes: 2, drain: drain.into(), latencies, ..Behaviour::default() });
    for number in 0..2 {
        let volume = cluster.sim.create_volume(VolumeSpec { size_bytes: 1 << 20, ..VolumeSpec::default() }).unwrap();
        let mut version = cluster.version(number, "ami-2", Healthy);
        version.launch.as_mut().unwrap().volume = Some(volume.to_string());
        cluster.publish_for(number, version);
    }
    let file = cluster.dir().join("roll.svg");
    // The check fails once, with words that are markup.
    let check =
        format!("[ -e {0}/once ] || {{ touch {0}/once; echo '<b>&\"lag\"'; exit 1; }}", cluster.dir().display());
    let log = cluster.roll(&["--check", &check, "--bake", "5s", "--plot", file.to_str().unwrap()]).must_end(0);

    assert!(log.contains(&format!("where the time went is drawn in {}", file.display())), "{log}");
    let svg = fs::read_to_string(&file).unwrap();
    if let Ok(folder) = std::env::var("KEEP_PICTURES") {
        fs::write(format!("{folder}/roll.svg"), &svg).unwrap();
    }
    let document = parsed(&svg);
    for number in 0..2 {
        let row = row(&document, number).unwrap();
        let told = stories(row).join("\n");
        for phase in ["last look", "check", "drain", "EC2's end", "interface free", "bake"] {
            assert!(told.contains(phase), "{phase}: {told}\n{svg}");
        }
        assert!(shown(row).contains("done") && shown(row).contains("out for "), "{svg}");
        // Looks are 5 s apart, so only the longest phase is surely longer than the others.
        assert!(width_of(row, "drain") > 1.2 * width_of(row, "EC2's end"), "{svg}");
    }
    let checked = row(&document, 0).unwrap();
    assert!(
        shown(checked).contains("the check has not passed: it exited with 1; its last lines: <b>&\"lag\""),
        "{svg}"
    );
    assert!(checked.children().any(|bar| bar.attribute("class") == Some("wait")), "{svg}");
    assert!(shown(document.root_element()).contains("Roll of stateful-cluster=kafka"), "{svg}");
}

#[test]
fn a_roll_that_fails_or_is_stopped_is_drawn_up_to_its_end() {
    let cluster = Cluster::new(&Behaviour { nodes: 2, ..Behaviour::default() });
    cluster.publish("ami-2", Held);
    let file = cluster.dir().join("roll.svg");
    fs::write(&file, "x".repeat(100_000)).unwrap();
    let arguments = ["--plot", file.to_str().unwrap(), "--timeout", "40s"];
    cluster.roll(&arguments).must_end(1);

    let svg = fs::read_to_string(&file).unwrap();
    let document = parsed(&svg);
    let held = row(&document, 0).unwrap();
    assert!(shown(held).contains("and not back") && shown(held).contains("the roll ended here"), "{svg}");
    assert!(shown(held).contains("is held ("), "{svg}");
    assert!(row(&document, 1).is_none(), "{svg}");
    assert!(shown(document.root_element()).contains("groups that the roll did not touch: 1"), "{svg}");

    fs::remove_file(&file).unwrap();
    let rolling = cluster.roll(&arguments);
    rolling.wait_for("is held");
    rolling.signal(Signal::SIGTERM);
    rolling.must_end(3);
    let svg = fs::read_to_string(&file).unwrap();
    assert!(shown(parsed(&svg).root_element()).contains("told to stop"), "{svg}");
}

#[test]
fn a_picture_that_cannot_be_written_is_found_before_anything_is_taken() {
    let cluster = Cluster::new(&Behaviour { nodes: 1, ..Behaviour::default() });
    cluster.publish("ami-2", Healthy);
    let old = cluster.in_service(0);
    for (path, why) in [("/nowhere/roll.svg", "No such file or directory"), ("/", "Is a directory")] {
        let log = cluster.roll(&["--plot", path]).must_end(2);
        assert!(log.contains(&format!("--plot {path}: it cannot be written: {why}")), "{log}");
    }
    assert_eq!(cluster.in_service(0), old);
    cluster.has_no_flag();

    // A disk that is full at the end fails nothing. Without --yes nothing is written.
    let log = cluster.roll(&["--plot", "/dev/full"]).must_end(0);
    assert!(log.contains("the picture /dev/full was not written: No space left on device"), "{log}");
    let file = cluster.dir().join("roll.svg");
    cluster.start(&[], &["--cluster", cluster::CLUSTER, "--plot", file.to_str().unwrap()]).must_end(0);
    assert!(!file.exists());
}
