//! The agent is killed at any instant, alone or with everything it started, and started again: the end is always the same.

#[path = "kill/scene.rs"]
mod scene;
mod support;
#[path = "kill/trace.rs"]
mod trace;

use std::time::Instant;

use scene::Scene;

#[test]
fn list() {
    for fs in ["xfs", "ext4"] {
        let scene = Scene::new(fs);
        let running = scene.node.start_with(&["run", "--once"]);
        let began = Instant::now();
        let mut all = Vec::new();
        trace::follow(&running, |effect| {
            all.push(effect.to_owned());
            true
        });
        println!("{fs} traced {:?} {} effects\n{}", began.elapsed(), all.len(), all.join("\n"));
        let outcome = running.end();
        println!("{}", outcome.log);
        scene.must_be_up("traced");
        let scene = Scene::new(fs);
        let began = Instant::now();
        let outcome = scene.node.start_with(&["run", "--once"]).end();
        println!("{fs} untraced {:?} {:?}", began.elapsed(), outcome.took);
        scene.must_be_up("clean");
        println!("{:?}", began.elapsed());
    }
}
