//! The user's functions: failures, hangs, and processes that they start and leave running.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{HOOKS, Instance, World, config_with, volume_at, wait_until};

const GOOD: &str = "true";

/// A node with these two functions, which sends ABANDON at its first failure.
fn node(world: &World, configure: &str, health: &str) -> (Instance, String) {
    let (node, volume) = world.node();
    node.hooks(format!("configure_cluster_node() {{\n{configure}\n}}\nwait_for_healthy_cluster() {{\n{health}\n}}\n"));
    let config =
        config_with("on_failure = \"abandon\"", &[volume_at("/mydata", &volume, "xfs")], "[timeouts]\nhooks = \"30s\"");
    (node, config)
}

/// The agent sent exactly one ABANDON, and the group terminates the instance.
fn must_be_abandoned(world: &World, node: &Instance) {
    assert_eq!(world.completions(), ["ABANDON"]);
    wait_until(
        || world.sim.lifecycle_state(&node.id).is_none_or(|state| state.starts_with("Terminat")),
        || format!("{:?}", world.sim.lifecycle_state(&node.id)),
    );
}

#[test]
fn a_failing_configure_hook_is_abandoned_once_with_its_last_lines() {
    let world = World::new();
    let (node, config) = node(&world, "echo one\necho 'no such broker' >&2\nfalse\necho not reached", GOOD);

    let outcome = node.run(&config);

    outcome.must_fail(1, &["configure: | one", "step=configure code=hook-failed", "one | no such broker"]);
    assert!(!outcome.log.contains("| not reached"), "{}", outcome.log);
    must_be_abandoned(&world, &node);
}

#[test]
fn a_failing_health_check_is_abandoned_once() {
    let world = World::new();
    let (node, config) = node(&world, GOOD, "printf 'quorum lost'; exit 7");

    let outcome = node.run(&config);

    outcome.must_fail(1, &["step=health-check code=hook-failed", "exit status: 7; its last lines: quorum lost"]);
    must_be_abandoned(&world, &node);
    // A later start does not use an abandoned node either.
    node.run(&config).must_fail(7, &[]);
    assert_eq!(world.completions(), ["ABANDON"]);
}

#[test]
fn a_hanging_hook_is_ended_with_its_whole_process_group_at_its_deadline() {
    let world = World::new();
    // The hook and its child ignore TERM.
    let hang =
        "trap '' TERM\n(trap '' TERM; echo $BASHPID > /tmp/child; while :; do sleep 0.1; done) &\necho waiting\nwait";
    let (node, config) = node(&world, hang, GOOD);

    let outcome = node.run(&config.replace("hooks = \"30s\"", "hooks = \"5s\""));

    outcome.must_fail(1, &["step=configure code=hook-timed-out", "has not ended within 5s", "waiting"]);
    assert!(outcome.took >= Duration::from_secs(5), "{:?}", outcome.took);
    assert!(!node.is_alive("/tmp/child"));
    must_be_abandoned(&world, &node);
}

#[test]
fn a_hook_ends_when_its_function_returns_and_what_it_started_lives_on() {
    let world = World::new();
    // The child keeps the output open.
    let (node, config) = node(&world, "sleep 600 &\necho $! > /tmp/broker\necho started", GOOD);
    let began = Instant::now();

    let outcome = node.come_up(&config);

    assert!(began.elapsed() < Duration::from_mins(1) && outcome.log.contains("| started"), "{}", outcome.log);
    assert_eq!(node.shell("kill $(cat /tmp/broker) && echo was alive"), "was alive");
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_hook_sees_what_the_user_data_script_left_in_scope() {
    let world = World::new();
    let show = r#"
      for name in NODE_ID NODE_IP VOLUME_ID DEVICE_NAME MOUNT_PATH FILE_SYSTEM_TYPE OWNER GROUP INSTANCE_ID REGION ASG_NAME ASG_HOOK_NAME PATH HOME; do
        echo "$name=${!name}"
      done > /tmp/env
      echo "$NODE_AGENT_VOLUMES" > /tmp/volumes
      { echo "args $*"; echo "pwd $PWD"; echo "umask $(umask)"; echo "stdin $(cat | wc -c)"; echo "flags $-"; } > /tmp/shell
      set_in_configure=1"#;
    let (node, config) = node(&world, show, "echo \"leaked ${set_in_configure-no}\"");

    let outcome = node.come_up(&config);

    let volume = node.journal()["volumes"].as_object().unwrap().keys().next().unwrap().clone();
    let expected = format!(
        "NODE_ID=00\nNODE_IP=10.0.1.10\nVOLUME_ID={volume}\nDEVICE_NAME=/dev/sdf\nMOUNT_PATH=/mydata\nFILE_SYSTEM_TYPE=xfs\n\
         OWNER=daemon\nGROUP=daemon\nINSTANCE_ID={}\nREGION=eu-west-1\nASG_NAME=kafka-node-00\n\
         ASG_HOOK_NAME=kafka-node-asg-hook\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/root\n",
        node.id
    );
    assert_eq!(node.read("/tmp/env"), expected);
    // Byte for byte what 0.1.0 wrote: this text is an input of the hooks, and an upgrade must not call them again.
    let volumes = format!(
        "[{{\"device_name\":\"/dev/sdf\",\"file_system\":\"xfs\",\"group\":\"daemon\",\"id\":\"{volume}\",\
         \"mount_path\":\"/mydata\",\"owner\":\"daemon\"}}]\n"
    );
    assert_eq!(node.read("/tmp/volumes"), volumes);
    let shell = node.read("/tmp/shell");
    assert!(shell.starts_with("args 00 10.0.1.10\npwd /\numask 0022\nstdin 0\nflags "), "{shell}");
    for flag in ['e', 'u', 'E'] {
        assert!(shell.lines().last().unwrap().contains(flag), "{shell}");
    }
    assert!(outcome.log.contains("leaked no"), "{}", outcome.log);
}

#[test]
fn output_without_newline_or_utf8_is_logged() {
    let world = World::new();
    let (node, config) = node(&world, r"printf 'caf\xe9 \xff\nlast'", "for i in $(seq 2000); do echo line $i; done");

    let outcome = node.come_up(&config);

    assert!(outcome.log.contains("| caf\u{fffd} \u{fffd}\n") && outcome.log.contains("| last\n"), "{}", outcome.log);
    assert!(outcome.log.contains("| line 1\n") && outcome.log.contains("| line 2000\n"));
}

#[test]
fn after_a_fix_the_failed_step_is_resumed_and_earlier_ones_are_not_redone() {
    let world = World::new();
    let (node, volume) = world.node();
    let config = config_with("", &[volume_at("/mydata", &volume, "ext4")], "");
    let broken = HOOKS.replace("echo \"health", "[ -e /tmp/fixed ]; echo \"health");
    node.hooks(broken);

    node.run(&config).must_fail(1, &["step=health-check"]);
    // Nothing is sent under `hold`: that is for the resident service, and `--once` never holds.
    assert!(world.completions().is_empty());
    node.shell("touch /tmp/fixed");
    let outcome = node.come_up(&config);

    assert!(outcome.log.contains("configure: already so"), "{}", outcome.log);
    assert_eq!(node.read("/var/log/hooks.log").matches("configure").count(), 1);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn changed_inputs_redo_the_steps_that_depend_on_them() {
    let world = World::new();
    let (node, volume) = world.node();
    node.hooks(HOOKS.replace("echo \"health", "[ -e /tmp/fixed ]; echo \"health"));
    let config = config_with("", &[volume_at("/mydata", &volume, "xfs")], "");
    node.run(&config).must_fail(1, &["step=health-check"]);

    node.shell("touch /tmp/fixed");
    node.come_up(&config.replace("broker.id=00", "broker.id=01"));

    assert_eq!(node.read("/etc/kafka/server.properties"), "broker.id=01");
    assert_eq!(node.read("/var/log/hooks.log").matches("configure").count(), 2);
}

#[test]
fn sigterm_ends_the_hook_and_completes_nothing_and_the_next_start_resumes() {
    let world = World::new();
    let (node, config) =
        node(&world, "[ -e /tmp/go ] && return 0\nsleep 600 & echo $! > /tmp/child; echo here; wait", GOOD);
    let config = config.replace("hooks = \"30s\"", "hooks = \"10m\"");

    let running = node.start(&config);
    running.wait_for("| here");
    running.signal(Signal::SIGTERM);
    let outcome = running.end();

    outcome.must_fail(3, &["code=stopped"]);
    assert!(!node.is_alive("/tmp/child"));
    assert!(world.completions().is_empty());
    node.shell("touch /tmp/go");
    node.come_up(&config);
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_hook_that_outlived_its_killed_agent_is_ended_first() {
    let world = World::new();
    let (node, config) =
        node(&world, "[ -e /tmp/go ] && return 0\nsleep 600 & echo $! > /tmp/child; echo here; wait", GOOD);
    let config = config.replace("hooks = \"30s\"", "hooks = \"10m\"");

    let running = node.start(&config);
    running.wait_for("| here");
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().code, None);
    assert!(node.is_alive("/tmp/child"));
    node.shell("touch /tmp/go");
    let outcome = node.come_up(&config);

    assert!(outcome.log.contains("is still running"), "{}", outcome.log);
    assert!(!node.is_alive("/tmp/child"));
    assert_eq!(world.completions(), ["CONTINUE"]);
}

#[test]
fn a_hook_that_outlived_its_agent_is_ended_whatever_became_of_the_configuration() {
    for spoil in ["rm /etc/node-agent/config.toml", "echo 'no = table' >> /etc/node-agent/config.toml"] {
        let world = World::new();
        let (node, config) = node(&world, "sleep 600 & echo $! > /tmp/child; echo here; wait", GOOD);
        let config = config.replace("hooks = \"30s\"", "hooks = \"10m\"");
        let running = node.start(&config);
        running.wait_for("| here");
        running.signal(Signal::SIGKILL);
        running.end();
        assert!(node.is_alive("/tmp/child"));
        node.shell(spoil);

        let service = node.start_with(&["run"]);
        service.wait_for("held");

        assert!(!node.is_alive("/tmp/child"), "{spoil}: {}", service.log());
    }
}

#[test]
fn a_second_agent_at_the_same_time_is_told_who_has_the_lock() {
    let world = World::new();
    let (node, config) = node(&world, "echo here; until [ -e /tmp/go ]; do sleep 0.05; done", GOOD);
    let config = config.replace("hooks = \"30s\"", "hooks = \"10m\"");
    let running = node.start(&config);
    running.wait_for("| here");

    let second = node.start_with(&["run", "--once"]).end();

    second.must_fail(4, &[&format!("process {} holds", running.child.id())]);
    node.shell("touch /tmp/go");
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn a_hook_that_ended_in_time_has_not_timed_out_however_late_the_agent_learns_of_it() {
    // When the agent resumes, the hook has ended and the deadline has passed.
    for _ in 0..3 {
        let world = World::new();
        let node = world.launch();
        let hooks = HOOKS.replace(
            "echo \"configure",
            "echo $$ > /tmp/hook; echo here; until [ -e /tmp/go ]; do sleep 0.01; done; echo \"configure",
        );
        node.hooks(hooks);
        let running = node.start(&config_with("", &[], "[timeouts]\nhooks = \"5s\""));
        running.wait_for("| here");
        running.signal(Signal::SIGSTOP);
        node.shell("touch /tmp/go");
        wait_until(|| !node.is_alive("/tmp/hook"), || running.log());
        // Beyond the deadline.
        sleep(Duration::from_secs(5));
        running.signal(Signal::SIGCONT);

        let outcome = running.end();

        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    }
}

/// The result that a script must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The function ran, with its arguments, and that is success.
    Called,
    /// The function ran and failed.
    Failed,
    /// The shell ended before the function was called: never a success.
    EndedBefore,
}

/// What a script does before its functions, in `configure_cluster_node`, and after its functions.
const SCRIPTS: &[(&str, &str, &str, Verdict)] = {
    use Verdict::{Called, EndedBefore, Failed};
    &[
        // The shell ends at the script's top level.
        ("", "", "exit 0", EndedBefore),
        ("[ -e /etc/passwd ] && { echo done; exit 0; }", "", "", EndedBefore),
        ("", "", "exit 3", EndedBefore),
        ("trap 'exit 0' EXIT", "", "exit 3", EndedBefore),
        ("", "", "exec true", EndedBefore),
        ("", "", "exec bash -c 'echo another program'", EndedBefore),
        ("", "", "set -n", EndedBefore),
        ("", "", "kill -9 $$", EndedBefore),
        ("", "", "kill $$; sleep 5", EndedBefore),
        ("trap 'exit 0' TERM", "", "kill $$; sleep 5", EndedBefore),
        ("trap 'exit 0' ERR", "", "false", EndedBefore),
        ("trap 'exit 0' DEBUG", "", "true", EndedBefore),
        ("", "", "shopt -s extdebug; trap false DEBUG", EndedBefore),
        ("", "", "false", EndedBefore),
        ("", "", "return 1", EndedBefore),
        ("", "", "echo $not_set", EndedBefore),
        ("", "", "if then", EndedBefore),
        ("", "", "exec >/dev/full; echo no room", EndedBefore),
        ("", "", "main() { exit 0; }; main \"$@\"", EndedBefore),
        // The function fails.
        ("", "false", "", Failed),
        ("", "exit 5", "", Failed),
        ("", "exec false", "", Failed),
        ("", "kill -9 $$", "", Failed),
        ("", "", "unset -f configure_cluster_node", Failed),
        // The function is called, whatever the script does to the shell.
        ("", "", "", Called),
        ("", "exit 0", "", Called),
        ("", "exec true", "", Called),
        ("", "", "set -- x y z", Called),
        ("", "", "set --", Called),
        ("", "", "shift 2", Called),
        ("", "", "return 0", Called),
        ("IFS=01.", "", "IFS=/", Called),
        ("", "", "set +e; false", Called),
        ("", "", "set +eu +o pipefail; set -f", Called),
        ("", "", "[[ \"${BASH_SOURCE[0]}\" == \"$0\" ]] && { echo executed; exit 0; } || true", Called),
        ("", "", "if [ \"$0\" = \"$BASH_SOURCE\" ]; then exit 0; fi", Called),
        ("", "", "(return 0 2>/dev/null) || exit 0", Called),
        ("", "", "set -o noclobber", Called),
        ("", "", "set -o posix", Called),
        ("", "", "shopt -s nullglob failglob extglob", Called),
        ("", "", "cd /tmp; umask 0777; unset PATH HOME NODE_ID", Called),
        ("", "", "readonly IFS PATH NODE_ID go script function mark", Called),
        ("", "", "exec >/dev/null 2>&1", Called),
        ("", "", "exec <&- >&- 2>&-", Called),
        ("", "", "exec 3</etc/passwd 4>/dev/null", Called),
        ("trap 'echo bye' EXIT", "", "trap : DEBUG ERR RETURN TERM", Called),
        ("set -x", "", "set -T", Called),
        (
            "",
            "",
            "source() { builtin exit 0; }; exit() { return 0; }; :() { builtin exit 0; }; read() { builtin exit 0; }",
            Called,
        ),
        (
            "",
            "",
            "true() { builtin exit 0; }; [() { builtin exit 0; }; echo() { builtin echo \"$@\"; }; umask() { builtin exit 0; }",
            Called,
        ),
        (
            "shopt -s expand_aliases",
            "",
            "alias configure_cluster_node='exit 0' wait_for_healthy_cluster='exit 0' source='exit 0' exec='exit 0' exit=true",
            Called,
        ),
        ("", "", "shopt -s expand_aliases\nalias configure_cluster_node=false", Called),
        ("sleep 0.2 & wait", "", "( exit 0 ); ( exec true ); x=$(exit 0)", Called),
    ]
};

#[test]
fn a_script_that_ends_early_is_no_success() {
    let world = World::new();
    let mut wrong = Vec::new();
    for case @ (top, body, bottom, verdict) in SCRIPTS {
        let node = world.launch();
        node.hooks(format!(
            "{top}\nconfigure_cluster_node() {{\nbuiltin printf '%s,' \"$@\" >| /tmp/called\n{body}\n}}\n\
                 wait_for_healthy_cluster() {{\n:\n}}\n{bottom}\n"
        ));
        let config = config_with("", &[], "[timeouts]\nhooks = \"30s\"");
        // A colon for the health check may be anything by then.
        let config = config.replace("[hooks]", "[hooks]\nhealth_check = \"configure_cluster_node\"");

        let outcome = node.run(&config);

        let called = node.machine().read("/tmp/called").unwrap_or_default();
        let early = "the script /usr/local/lib/node/hooks.sh ended before configure_cluster_node was called";
        let as_said = match verdict {
            Verdict::Called => outcome.code == Some(0) && called == "00,10.0.1.10,",
            Verdict::Failed => outcome.code == Some(1) && outcome.log.contains("configure_cluster_node ended with"),
            Verdict::EndedBefore => outcome.code == Some(1) && outcome.log.contains(early) && called.is_empty(),
        };
        if !as_said {
            wrong.push(format!("{case:?}: exit code {:?}, {called:?}\n{}", outcome.code, outcome.log));
        }
        node.terminate();
    }
    assert!(wrong.is_empty(), "{} of {} scripts:\n{}", wrong.len(), SCRIPTS.len(), wrong.join("\n\n"));
}

#[test]
fn last_words_printed_by_another_process_are_in_the_error_and_the_journal() {
    for through in ["tee -a /tmp/copy", "while IFS= read -r line; do sleep 0.1; echo \"$line\"; done"] {
        let world = World::new();
        let node = world.launch();
        let hooks = HOOKS.replace("echo \"configure", "echo one; echo 'no such broker'; false; echo \"configure");
        node.hooks(format!("exec > >({through}) 2>&1\n{hooks}"));

        let outcome = node.run(&config_with("", &[], ""));

        outcome.must_fail(1, &["configure: | one", "its last lines: one | no such broker (all of its output: "]);
        assert_eq!(node.journal()["output"]["configure"], serde_json::json!(["one", "no such broker"]), "{through}");
    }
}

#[test]
fn what_bash_takes_from_the_callers_environment_does_not_reach_the_hook() {
    let world = World::new();
    let node = world.launch();
    node.write("/tmp/first.sh", "echo read first; exit 0\n");
    let show = "env > /tmp/env; echo \"options $SHELLOPTS\" >> /tmp/env; echo \"configure";
    node.hooks(HOOKS.replace("echo \"configure", show));
    node.configure(config_with("", &[], ""));
    let variables = [
        ("BASH_ENV", "/tmp/first.sh"),
        ("ENV", "/tmp/first.sh"),
        ("SHELLOPTS", "noexec:posix"),
        ("BASHOPTS", "extdebug"),
        ("BASH_FUNC_umask%%", "() { exit 0; }"),
        ("BASH_FUNC_source%%", "() { echo not sourced; }"),
        ("POSIXLY_CORRECT", "1"),
        ("CDPATH", "/tmp"),
        ("TMOUT", "1"),
        ("HTTPS_PROXY_OF_MINE", "kept"),
    ];

    let output = node.agent(&["run", "--once"]).envs(variables).output().unwrap();

    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !log.contains("read first"), "{log}");
    let seen = node.read("/tmp/env");
    let names = ["BASH_ENV", "ENV", "BASHOPTS", "BASH_FUNC", "POSIXLY_CORRECT", "CDPATH", "TMOUT"];
    assert!(!seen.lines().any(|line| names.iter().any(|name| line.starts_with(name))), "{seen}");
    assert!(seen.contains("HTTPS_PROXY_OF_MINE=kept") && !seen.contains("noexec"), "{seen}");
}

#[test]
fn a_character_on_the_edge_of_a_piece_stays_whole() {
    let world = World::new();
    let node = world.launch();
    let line = "for fill in 4092 4093 4094 4095 4096; do printf \"%0${fill}d\\U1F511\\u20ac\\u00e9.\\n\" 0; done";
    let hooks = HOOKS.replace("echo \"configure", &format!("export LC_ALL=C.UTF-8; {line}; echo \"configure"));
    node.hooks(hooks);

    let outcome = node.come_up(&config_with("", &[], ""));

    let file = node.read("/var/lib/node-agent/hooks.log");
    for text in [&outcome.log, &file] {
        assert!(!text.contains('\u{fffd}'), "{text}");
        for whole in ['\u{1f511}', '\u{20ac}', '\u{e9}'] {
            assert_eq!(text.matches(whole).count(), 5, "{text}");
        }
    }
}

/// What a hook does to start a process that prints numbered lines, each after this pause, and says when it is done.
fn printing(name: &str, lines: usize, pause: &str) -> String {
    format!(
        "( for ((i = 1; i <= {lines}; i++)); do echo \"{name} $i\"; {pause}; done; touch /tmp/{name}.done ) &\n\
         echo $! > /tmp/{name}"
    )
}

/// All lines of that process are in the log, each once and in their order.
fn must_be_logged(node: &Instance, name: &str, step: &str, lines: usize) {
    let done = || node.shell(&format!("test -e /tmp/{name}.done && echo done || true")) == "done";
    wait_until(done, || format!("{name} has not printed all"));
    let expected: Vec<_> = (1..=lines).map(|number| format!("{step}: {name} {number}")).collect();
    let logged = || -> Vec<String> {
        let file = node.read("/var/lib/node-agent/hooks.log");
        let lines = file.lines().map(|line| line.split_once(' ').unwrap().1.to_owned());
        lines.filter(|line| line.starts_with(&format!("{step}: {name} "))).collect()
    };
    // The process is done before its last line is read.
    wait_until(|| logged().len() >= lines, || format!("{} of {lines} lines of {name}", logged().len()));
    assert_eq!(logged(), expected);
}

/// Printed after a hook: for five seconds.
const AFTER: (usize, &str) = (100, "sleep 0.05");

#[test]
fn what_a_hook_started_prints_on_into_the_log_after_the_agents_end() {
    let world = World::new();
    let (lines, pause) = AFTER;
    let (node, config) = node(&world, &printing("broker", lines, pause), &printing("probe", lines, pause));

    let outcome = node.come_up(&config);

    assert!(node.is_alive("/tmp/broker") && node.is_alive("/tmp/probe"), "{}", outcome.log);
    must_be_logged(&node, "broker", "configure", lines);
    must_be_logged(&node, "probe", "health-check", lines);
    assert_eq!(node.shell("stat -c %a /var/lib/node-agent/hooks.log"), "600");
    // Output of a process that still runs delays nothing.
    assert!(outcome.took < Duration::from_secs(5), "{:?}", outcome.took);
}

#[test]
fn what_a_hook_started_prints_on_into_the_log_when_the_service_is_stopped() {
    let world = World::new();
    let (lines, pause) = AFTER;
    let (node, config) = node(&world, &printing("broker", lines, pause), &printing("probe", lines, pause));
    node.configure(config);
    let service = node.start_with(&["run"]);
    support::wait_for_state(&node, "done", &service);

    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().code, Some(0));

    must_be_logged(&node, "broker", "configure", lines);
    must_be_logged(&node, "probe", "health-check", lines);
}

#[test]
fn no_line_is_lost_when_the_agent_is_killed_in_a_hook() {
    let (lines, pause) = AFTER;
    for (lines, pause) in [(lines, pause), (20_000, ":")] {
        let world = World::new();
        let wait = format!("[ -e /tmp/go ] && return 0\n{}\necho here; wait", printing("broker", lines, pause));
        let (node, config) = node(&world, &wait, &printing("probe", AFTER.0, AFTER.1));

        let running = node.start(&config);
        running.wait_for("| here");
        running.wait_for("| broker 10\n");
        running.signal(Signal::SIGKILL);
        assert_eq!(running.end().code, None);

        must_be_logged(&node, "broker", "configure", lines);
        node.shell("touch /tmp/go");
        node.come_up(&config);
        must_be_logged(&node, "probe", "health-check", AFTER.0);
        must_be_logged(&node, "broker", "configure", lines);
    }
}

#[test]
fn a_hook_that_is_ended_at_its_deadline_names_the_file_with_its_output() {
    let world = World::new();
    let node = world.launch();
    let hooks = HOOKS.replace("echo \"configure", "echo waiting; sleep 600; echo \"configure");
    let config = config_with("", &[], "[timeouts]\nhooks = \"1s\"");
    let all = "its last lines: waiting (all of its output: /var/lib/node-agent/hooks.log)";

    node.hooks(&hooks);
    node.run(&config).must_fail(1, &["configure_cluster_node has not ended within 1s; ", all]);
    assert!(node.read("/var/lib/node-agent/hooks.log").ends_with(" configure: waiting\n"));

    // Before its functions, too.
    node.hooks(format!("{hooks}\necho waiting; sleep 600\n"));
    node.run(&config).must_fail(1, &["within 1s: the script was still being sourced; ", all]);
}

#[test]
fn output_without_end_hides_no_deadline_and_fills_no_disk() {
    let world = World::new();
    let node = world.launch();
    let hooks = HOOKS.replace("echo \"configure", "seq 1 2000000 >&2; exec yes; echo \"configure");
    node.hooks(hooks);

    let outcome = node.run(&config_with("", &[], "[timeouts]\nhooks = \"5s\""));

    outcome.must_fail(1, &["configure_cluster_node has not ended within 5s", "configure: | 1\n"]);
    {
        let mut last = String::new();
        for l in outcome.log.lines() {
            let k = format!("{} {}", &l[..8.min(l.len())], l.contains("| "));
            if k != last {
                last = k;
            }
        }
    }
    assert!(outcome.took < Duration::from_secs(40), "{:?}", outcome.took);
    for file in ["hooks.log", "hooks.log.1"] {
        let size = node.shell(&format!("stat -c %s /var/lib/node-agent/{file} || echo 0"));
        assert!(size.parse::<u64>().unwrap() <= 8 << 20, "{file}: {size}");
    }
}

#[test]
fn a_reader_that_is_killed_is_said() {
    let world = World::new();
    let node = world.launch();
    let wait = "echo here; until [ -e /tmp/go ]; do sleep 0.01; done; echo \"configure";
    node.hooks(HOOKS.replace("echo \"configure", wait));
    let running = node.start(&config_with("", &[], ""));
    running.wait_for("| here");

    node.shell(&format!("pkill -KILL -P {} -f read-hook", running.child.id()));
    running.wait_for("ended with signal: 9 (SIGKILL): lines may be missing in /var/lib/node-agent/hooks.log");
    node.shell("touch /tmp/go");

    assert_eq!(running.end().code, Some(0));
}

#[test]
fn paths_with_whatever_a_shell_would_read_into_them_are_taken_as_they_are() {
    let world = World::new();
    let node = world.launch();
    let script = "/usr/local/lib/it's \"my\" $HOME `dir`/hooks;exit 0.sh";
    let state = "/var/lib/it's \"my\" $(exit 0)\\";
    node.write(script, HOOKS);
    let config = config_with("", &[], "").replace("\"/usr/local/lib/node/hooks.sh\"", &format!("'''{script}'''"));
    node.configure(config);

    let outcome = node.start_with(&["run", "--once", "--state-dir", state]).end();

    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(node.read("/var/log/hooks.log"), "configure 00 10.0.1.10 \nhealth 00 10.0.1.10 kafka-node-00\n");
}
