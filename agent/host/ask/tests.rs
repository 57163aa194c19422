//! Real commands: what is answered, and that nothing of them is left.

use std::env;
use std::thread;
use std::time::Duration;

use tokio::time::sleep;

use super::processes::POLL;
use super::*;
use crate::host::process;

/// Longer than any test, for what must not be ended by its limit.
const LONG: Duration = Duration::from_mins(1);
/// For what only its limit ends.
const SHORT: Duration = Duration::from_millis(300);

fn run(command: &Command, limit: Duration, streams: Streams) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ask(command, &[("ASKED", "yes".to_owned())], limit, streams))
}

fn shell(text: &str, limit: Duration) -> Answer {
    run(&Command::Shell(text.to_owned()), limit, Streams::Joined)
}

fn exited(status: i32, output: &str) -> Answer {
    Answer { outcome: Outcome::Exited(status), stdout: String::new(), output: output.to_owned() }
}

/// The process ids that the command printed.
fn pids(answer: &Answer) -> Vec<i32> {
    answer.output.lines().map(|line| line.parse().unwrap()).collect()
}

fn is_gone(pid: i32) -> bool {
    matches!(process::state(pid), None | Some('Z' | 'X'))
}

#[test]
fn the_answer_has_the_exit_status_and_the_output_in_its_order() {
    let text = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; exit 3";
    assert_eq!(shell(text, LONG), exited(3, "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n"));
    assert_eq!(shell("exit 0", LONG), exited(0, ""));
    assert_eq!(shell("kill -9 $$", LONG).outcome, Outcome::Killed(9));
}

#[test]
fn standard_output_is_read_apart_where_it_is_the_answer() {
    let command = Command::Shell("echo warning >&2; printf 02".to_owned());
    let answer = run(&command, LONG, Streams::Apart);
    assert_eq!((&answer.outcome, answer.stdout.as_str()), (&Outcome::Exited(0), "02"));
    assert!(answer.output.contains("warning\n") && answer.output.contains("02"), "{answer:?}");
}

#[test]
fn the_command_has_the_callers_environment_and_directory_and_no_input() {
    let own = env::current_dir().unwrap();
    let answer = shell("read -r line || echo closed; echo $ASKED $HOME; pwd", LONG);
    assert_eq!(answer, exited(0, &format!("closed\nyes {}\n{}\n", env::var("HOME").unwrap(), own.display())));
}

#[test]
fn bytes_that_are_not_utf_8_are_replaced() {
    assert_eq!(shell(r"printf 'a\xff\u00e9'", LONG), exited(0, "a\u{fffd}é"));
}

#[test]
fn of_much_output_the_last_bytes_are_kept() {
    let answer = shell("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end", LONG);
    assert_eq!(answer.outcome, Outcome::Exited(0));
    assert_eq!(answer.output.len(), KEPT);
    assert!(answer.output.ends_with("xxx\nthe end\n"));
    // Two bytes a character, after an odd number of bytes.
    let answer = shell("printf x; for ((i = 0; i < 9000; i++)); do printf é; done; printf x", LONG);
    assert!(answer.output.starts_with('é') && answer.output.ends_with("éx"), "{}", answer.output);
}

#[test]
fn a_command_at_its_limit_is_ended_whatever_it_prints() {
    for text in ["echo $$; sleep 1000", "echo $$; sleep 1000 & echo $!; wait", "echo $$; exec >&- 2>&-; sleep 1000"] {
        let answer = shell(text, SHORT);
        assert_eq!(answer.outcome, Outcome::TimedOut, "{text}");
        assert!(!pids(&answer).is_empty() && pids(&answer).into_iter().all(is_gone), "{text}");
    }
    let answer = shell("yes", SHORT);
    assert_eq!((answer.outcome, answer.output.len()), (Outcome::TimedOut, KEPT));
}

#[test]
fn a_command_that_ignores_the_signal_is_killed() {
    let answer = shell("trap '' TERM; echo $$; while :; do sleep 0.1; done", SHORT);
    assert_eq!(answer.outcome, Outcome::TimedOut);
    assert!(pids(&answer).into_iter().all(is_gone));
}

#[test]
fn what_a_command_leaves_running_is_ended_when_its_shell_ends() {
    // The last one: a daemon, and the shell waits for its pid.
    for text in [
        "sleep 1000 & echo $!",
        "sleep 1000 >/dev/null 2>&1 & echo $!",
        "setsid sleep 1000 & echo $!",
        "read -r pid < <(setsid bash -c '(echo $BASHPID; exec >&-; exec sleep 1000) &'); echo $pid",
    ] {
        let answer = shell(text, LONG);
        assert_eq!(answer.outcome, Outcome::Exited(0), "{text}");
        assert!(!pids(&answer).is_empty() && pids(&answer).into_iter().all(is_gone), "{text}");
    }
}

#[test]
fn a_dropped_command_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let text = format!(
        "trap '' TERM; setsid sleep 1000 & sleep 1000 & echo $$ $(jobs -p) > {0}.new; mv {0}.new {0}; wait",
        file.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let command = Command::Shell(text);
        tokio::select! {
            answer = ask(&command, &[], LONG, Streams::Joined) => panic!("{answer:?}"),
            () = async { while !file.exists() { sleep(POLL).await } } => {}
        }
    });
    let pids: Vec<i32> =
        fs::read_to_string(&file).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    // A killed process ends a moment after its signal.
    while !pids.iter().copied().all(is_gone) {
        thread::sleep(POLL);
    }
}

/// Calls the function `f` of this script.
fn function(script: &str) -> (Answer, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("it's.sh");
    fs::write(&file, script).unwrap();
    let shown = file.display().to_string();
    (run(&Command::Function { file, name: "f".to_owned() }, LONG, Streams::Joined), shown)
}

#[test]
fn a_function_is_called_without_arguments_and_with_the_options_of_hooks() {
    let (answer, _) = function("f() { echo $# $- $ASKED; }");
    assert_eq!(answer, exited(0, "0 ehuBEc yes\n"));
    assert_eq!(function("f() { false; echo on; }").0, exited(1, ""));
    assert_eq!(function("f() { exit 7; }").0, exited(7, ""));
    assert!(function("f() { echo $unset; }").0.output.contains("unbound variable"));
}

#[test]
fn a_script_that_ends_before_its_function_is_called_is_no_success() {
    for (script, wanted) in [
        ("g() { :; }", "it's.sh defines no function f"),
        ("echo last; exit 0", "it's.sh ended before f was called (exit status: 0)"),
        ("f() { :; }\nno-such-program", "it's.sh ended before f was called (exit status: 127)"),
    ] {
        let (answer, _) = function(script);
        let Outcome::NotStarted(why) = &answer.outcome else { panic!("{answer:?}") };
        assert!(why.contains(wanted), "{why}");
    }
    assert_eq!(function("echo last; exit 0").0.output, "last\n");
}

#[test]
fn what_bash_cannot_be_given_is_not_started() {
    let answer = shell("echo \0", LONG);
    assert!(
        matches!(&answer.outcome, Outcome::NotStarted(why) if why.starts_with("bash cannot be started")),
        "{answer:?}"
    );
    let command = Command::Shell("true".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(ask(&command, &[("LONG", "x".repeat(1 << 20))], LONG, Streams::Joined));
    assert!(matches!(&answer.outcome, Outcome::NotStarted(why) if why.contains("too long")), "{answer:?}");
}
