//! `node-agent status --plot`: where the time of a launch went, as a picture.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "departure/common.rs"]
mod common;
mod support;

use std::time::Duration;

use common::{Leaving, draining, must_have_left, ordered, with_hooks};
use ec2_sim::InstanceSpec;
use roxmltree::{Document, Node};
use serde_json::{Value, json};
use support::{HOOKS, Instance, World, config_for, config_with, node_with, run, volume_at, wait_until};

/// What `status --plot` prints, and its exit code. `KEEP_PICTURES` names a folder for the pictures: docs/boot.svg is one of them.
fn plot(node: &Instance) -> (String, Option<i32>) {
    let output = node.agent(&["status", "--plot"]).output().unwrap();
    let svg = String::from_utf8(output.stdout).unwrap();
    if let Ok(folder) = std::env::var("KEEP_PICTURES") {
        let name = std::thread::current().name().unwrap().to_owned();
        std::fs::write(format!("{folder}/{name}-{}.svg", svg.len()), &svg).unwrap();
    }
    (svg, output.status.code())
}

fn parsed(svg: &str) -> Document<'_> {
    Document::parse(svg).unwrap_or_else(|error| panic!("{error}\n{svg}"))
}

fn rows<'a>(document: &'a Document<'_>) -> Vec<Node<'a, 'a>> {
    document.descendants().filter(|node| node.attribute("class") == Some("row")).collect()
}

fn row<'a>(document: &'a Document<'_>, name: &str, about: &str) -> Node<'a, 'a> {
    let is_it = |row: &Node| row.attribute("data-name") == Some(name) && row.attribute("data-about") == Some(about);
    rows(document).into_iter().find(is_it).unwrap_or_else(|| panic!("no row {name} {about}"))
}

fn bars<'a>(row: Node<'a, 'a>, class: &str) -> Vec<Node<'a, 'a>> {
    row.children().filter(|node| node.attribute("class") == Some(class)).collect()
}

fn number(node: Node<'_, '_>, name: &str) -> f64 {
    node.attribute(name).unwrap().parse().unwrap()
}

/// All that is shown, without the tooltips.
fn shown(node: Node<'_, '_>) -> String {
    let texts = node.descendants().filter(|node| node.has_tag_name("text"));
    let own = texts.flat_map(|text| text.children().filter(Node::is_text).filter_map(|node| node.text()));
    own.collect::<Vec<_>>().join("\n")
}

fn title<'a>(node: Node<'a, 'a>) -> &'a str {
    node.children().find(|node| node.has_tag_name("title")).unwrap().text().unwrap()
}

/// Each bar is as long as the journal says, on a common axis.
fn must_be_to_scale(svg: &str, journal: &Value) {
    let steps = journal["steps"].as_array().unwrap();
    let began = |step: &Value| step["began_ms"].as_f64().unwrap();
    // From and to, of each part.
    let parts = |step: &Value| -> Vec<(f64, f64)> {
        let took = step["took_ms"].as_f64().unwrap();
        let Some(parts) = step["parts"].as_array() else { return vec![(began(step), began(step) + took)] };
        let ms = |part: &Value, key: &str| part[key].as_f64().unwrap();
        let part =
            |part| (began(step) + ms(part, "after_ms"), began(step) + ms(part, "after_ms") + ms(part, "took_ms"));
        parts.iter().map(part).collect()
    };
    let first = steps.iter().map(began).fold(f64::INFINITY, f64::min);
    let last = steps.iter().flat_map(parts).map(|(_, to)| to).fold(0.0, f64::max);
    let document = parsed(svg);
    let scale = 794.0 / (last - first);
    for step in steps {
        let row = row(&document, step["step"].as_str().unwrap(), about(step));
        let drawn = bars(row, "bar");
        let parts = parts(step);
        assert_eq!(drawn.len(), parts.len(), "{step}\n{svg}");
        for (bar, (from, to)) in drawn.iter().zip(parts) {
            let wanted = ((from - first) * scale, ((to - from) * scale).max(1.5));
            let seen = (number(*bar, "x") - 386.0, number(*bar, "width"));
            assert!((seen.0 - wanted.0).abs() < 0.1 && (seen.1 - wanted.1).abs() < 0.1, "{step}: {seen:?} {wanted:?}");
        }
    }
}

/// The second column.
fn about(step: &Value) -> &str {
    let is_hook = ["configure", "health-check"].contains(&step["step"].as_str().unwrap());
    step["subject"].as_str().unwrap_or(if is_hook { "hook" } else { "" })
}

#[test]
fn a_launch_that_waited_for_a_held_volume_shows_the_reason_and_a_bar_a_step() {
    let world = World::new();
    let (first, second) = (world.volume(1), world.volume(1));
    let holder = world.launch_as(InstanceSpec { private_ips: vec!["10.0.1.99".to_owned()], ..InstanceSpec::default() });
    world.sim.attach(&first, &holder.id, "/dev/sdf").unwrap();
    let state = || world.sim.volume_state(&first).unwrap().attachments[0].status.to_string();
    wait_until(|| state() == "attached", state);
    let node = world.launch();
    node.hooks("configure_cluster_node() { sleep 1; }\nwait_for_healthy_cluster() { :; }\n");
    let second_volume = volume_at("/mylog", &second, "xfs") + "device_name = \"/dev/sdg\"\n";
    let running = node.start(&config_with("", &[volume_at("/mydata", &first, "xfs"), second_volume], ""));
    running.wait_for("wait: ");
    // The wait is drawn to scale, so it has to last.
    std::thread::sleep(Duration::from_secs(2));

    // While it waits.
    let (svg, code) = plot(&node);
    let document = parsed(&svg);
    let reason = format!("volume {first} is attached to {} (running)", holder.id);
    let waiting = row(&document, "attach", first.as_str());
    assert_eq!((code, bars(waiting, "wait").len()), (Some(3), 1), "{svg}");
    assert!(shown(waiting).contains(&reason) && shown(waiting).contains("running"), "{svg}");

    world.sim.detach(&first, &holder.id).unwrap();
    assert_eq!(running.end().code, Some(0));
    let (svg, code) = plot(&node);
    assert_eq!(code, Some(0), "{svg}");
    let journal = node.journal();
    must_be_to_scale(&svg, &journal);

    let document = parsed(&svg);
    let waited = row(&document, "attach", first.as_str());
    let waits = bars(waited, "wait");
    assert!(title(waits[0]).contains(&reason) && shown(waited).contains(&reason), "{svg}");
    let bar = bars(waited, "bar")[0];
    assert!(number(waits[0], "width") > 0.5 * number(bar, "width"), "{svg}");
    let all = shown(document.root_element());
    for said in ["node 00 (10.0.1.10) on ", node.id.as_str(), "up (CONTINUE was sent)", "after the machine's start"] {
        assert!(all.contains(said), "{said}\n{svg}");
    }
    let attach = &journal["steps"][1];
    assert!((1..=20).contains(&attach["waits"].as_array().unwrap().len()), "{attach}");
}

#[test]
fn a_failed_launch_shows_the_failure_and_a_repaired_one_its_earlier_run() {
    let world = World::new();
    let broken = HOOKS.replace("echo \"configure", "[ -e /tmp/repaired ] || return 3; echo \"configure");
    let node = node_with(&world, &broken);
    let service = node.start_with(&["run"]);
    service.wait_for("held for");

    let (svg, code) = plot(&node);
    let document = parsed(&svg);
    let failed = row(&document, "configure", "hook");
    assert_eq!((code, bars(failed, "bar").len()), (Some(1), 1), "{svg}");
    assert_eq!(bars(failed, "bar")[0].attribute("fill"), Some("#b3261e"), "{svg}");
    assert!(shown(failed).contains("failed: configure_cluster_node ended with exit status: 3"), "{svg}");
    let to_come = row(&document, "complete", "");
    assert!(bars(to_come, "bar").is_empty() && shown(to_come).contains("not begun"), "{svg}");
    assert!(shown(document.root_element()).contains("HELD, 59 min left"), "{svg}");

    node.shell("touch /tmp/repaired");
    run(&node, &["retry"]).must_fail(0, &["result=done"]);
    let (svg, code) = plot(&node);
    let document = parsed(&svg);
    let earlier = row(&document, "run 1", "failed");
    assert_eq!((code, bars(earlier, "bar").len(), bars(earlier, "wait").len()), (Some(0), 1, 1), "{svg}");
    assert!(shown(earlier).contains("configure: configure_cluster_node ended with"), "{svg}");
    assert!(title(bars(earlier, "wait")[0]).starts_with("held for repair: "), "{svg}");
    let (held, next) = (bars(earlier, "wait")[0], bars(row(&document, "identity", ""), "bar")[0]);
    assert!((number(held, "x") + number(held, "width") - number(next, "x")).abs() < 0.1, "{svg}");
    assert!(!svg.contains("not begun"), "{svg}");
    drop(service);
}

#[test]
fn a_departure_is_drawn_below_the_launch() {
    let Leaving { world, node, service, .. } = with_hooks(&draining("sleep 1"), "");
    ordered(&world, &node);
    must_have_left(&world, &node, &service.end());

    let (svg, code) = plot(&node);

    let document = parsed(&svg);
    assert_eq!(code, Some(0), "{svg}");
    let names: Vec<_> = rows(&document).iter().filter_map(|row| row.attribute("data-name")).collect();
    assert!(names.starts_with(&["identity", "attach"]) && names.contains(&"complete"), "{names:?}");
    assert!(names.ends_with(&["unmount", "detach", "leave"]), "{names:?}");
    let drain = bars(row(&document, "drain", "hook"), "bar");
    assert!(number(drain[0], "width") > 300.0, "{svg}");
    let all = shown(document.root_element());
    assert!(all.contains("The boot sequence: ") && all.contains("The departure: "), "{svg}");
}

/// Rewrites the journal, and takes away what was published beside it.
fn rewrite(node: &Instance, change: impl FnOnce(&mut Value)) {
    let mut journal = node.journal();
    change(&mut journal);
    node.write("/var/lib/node-agent/state.json", journal.to_string());
    node.shell("rm -rf /run/node-agent");
}

#[test]
fn any_text_in_the_journal_gives_a_well_formed_picture() {
    const HOSTILE: &str =
        "</title></text><script>1</script>&amp;& \"'\u{0}\u{1b}[2J\u{202e}\u{fffe}\u{ffff}]]><!-- \n\t日本 ";
    let world = World::new();
    let node = node_with(&world, "configure_cluster_node() { return 3; }\nwait_for_healthy_cluster() { :; }\n");
    node.start_with(&["run", "--once"]).end().must_fail(1, &["step=configure"]);
    let long = HOSTILE.repeat(300);
    rewrite(&node, |journal| {
        journal["node"] = json!({ "id": HOSTILE, "ip": HOSTILE, "asg_name": long });
        journal["instance_id"] = long.clone().into();
        journal["fault"]["error"]["public"] = long.clone().into();
        for step in journal["steps"].as_array_mut().unwrap() {
            step["subject"] = HOSTILE.into();
            step["started_at"] = HOSTILE.into();
            step["took_ms"] = u64::MAX.into();
            step["waits"] = vec![json!({ "why": long, "after_ms": 1, "took_ms": u64::MAX }); 20].into();
            if !step["error"].is_null() {
                step["error"]["public"] = long.clone().into();
            }
        }
        journal["earlier_runs"] = vec![
            json!({ "started_at": HOSTILE, "began_ms": u64::MAX, "took_ms": u64::MAX, "phase": "failed", "why": long });
            3
        ]
        .into();
    });

    let (svg, code) = plot(&node);

    let document = parsed(&svg);
    assert_eq!(code, Some(1), "{svg}");
    assert!(!document.descendants().any(|node| node.has_tag_name("script")), "{svg}");
    assert!(shown(document.root_element()).contains("日本"), "{svg}");
    assert!(svg.len() < 1_000_000, "{}", svg.len());
}

#[test]
fn a_journal_of_version_0_1_0_is_drawn_by_its_times() {
    let world = World::new();
    let (node, volume) = world.node();
    node.come_up(&config_for(&volume));
    let with_new_keys = node.journal();
    rewrite(&node, |journal| {
        journal.as_object_mut().unwrap().remove("earlier_runs");
        for step in journal["steps"].as_array_mut().unwrap() {
            for key in ["began_ms", "parts", "waits"] {
                step.as_object_mut().unwrap().remove(key);
            }
        }
    });

    let (svg, code) = plot(&node);

    let document = parsed(&svg);
    assert_eq!((code, rows(&document).len()), (Some(0), 10), "{svg}");
    for step in with_new_keys["steps"].as_array().unwrap() {
        let row = row(&document, step["step"].as_str().unwrap(), about(step));
        assert_eq!(bars(row, "bar").len(), 1, "{step}\n{svg}");
    }
    assert!(!svg.contains("after the machine's start"), "{svg}");
}

#[test]
fn a_node_without_a_journal_says_that_it_was_never_started_and_draws_nothing() {
    let world = World::new();
    let node = world.launch();
    let output = node.agent(&["status", "--plot"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("never started in this boot") && said.contains("node-agent"), "{said}");

    let output = node.agent(&["status", "--plot", "--json"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
}

#[test]
fn a_picture_that_waits_for_the_end_shows_the_end() {
    let world = World::new();
    let node = node_with(&world, "configure_cluster_node() { sleep 1; }\nwait_for_healthy_cluster() { :; }\n");
    let service = node.start_with(&["run"]);
    service.wait_for("configure: start");
    let (svg, code) = plot(&node);
    assert_eq!(code, Some(3), "{svg}");
    assert!(shown(row(&parsed(&svg), "configure", "hook")).contains("running"), "{svg}");

    let output = node.agent(&["status", "--plot", "--wait"]).output().unwrap();

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let svg = String::from_utf8(output.stdout).unwrap();
    assert!(shown(parsed(&svg).root_element()).contains("up (CONTINUE was sent)"), "{svg}");
    wait_until(|| world.completions() == ["CONTINUE"], || service.log());
}
