//! Invalid input, as data: the reported mistakes and their positions. In one file, because it is one table.

use super::*;
use crate::host::this_host::ThisHost;

/// A line, a column, and a part of the mistake and of the remedy.
type Said<'a> = (usize, usize, &'a str, &'a str);

/// One wrong line in a table that is valid otherwise: the table, the line, the column, the mistake, the remedy.
const LINES: &[(&str, &str, usize, &str, &str)] = &[
    // [node]
    ("node", r#"id = """#, 6, "[node] id: is empty", r#"write id = "00""#),
    ("node", r#"id = "  ""#, 6, "is empty", r#"write id = "00""#),
    ("node", r#"id = "a\tb""#, 6, "control character", "remove it"),
    ("node", "id = 7", 6, "is a number, not a string", r#"write id = "7""#),
    ("node", "id = 00", 6, "lacks its quotes", r#"write id = "00""#),
    ("node", "id = true", 6, "is a boolean, not a string", r#"write id = "00""#),
    ("node", "ip = 10.0.1.10", 6, "lacks its quotes", r#"write ip = "10.0.1.10""#),
    ("node", r#"ip = "10.0.1.300""#, 6, "is no IP address", "fixed address"),
    ("node", r#"ip = "10.0.1.10/24""#, 6, "is no IP address", r#"write "10.0.1.10""#),
    ("node", "ip = ", 6, "has no value", r#"write ip = "10.0.1.10""#),
    ("node", r#"ip: "10.0.1.10""#, 1, "no \"=\" after the key", r#"write ip = "10.0.1.10""#),
    // [[volume]]
    ("volume", r#"id = "vol-XYZ""#, 6, r#"[[volume]] id: "vol-XYZ" is not a volume id"#, "8 or 17 hex digits"),
    ("volume", r#"id = "VOL-0123456789ABCDEF0""#, 6, "is not a volume id", r#"write "vol-0123456789abcdef0""#),
    ("volume", r#"id = "vol0123456789abcdef0""#, 6, "is not a volume id", r#"write "vol-0123456789abcdef0""#),
    ("volume", r#"id = "snap-0123456789abcdef0""#, 6, "is a snapshot", "the volume's id"),
    ("volume", "id = vol-0123456789abcdef0", 6, "lacks its quotes", r#"write id = "vol-0123456789abcdef0""#),
    ("volume", r#"device_name = "sdf""#, 15, "is not a device name of EC2", r#"write "/dev/sdf""#),
    ("volume", r#"device_name = "/dev/nvme1n1""#, 15, "is not a device name of EC2", "by the volume's id"),
    ("volume", r#"device_name = "/dev/disk/by-id/x""#, 15, "is not a device name of EC2", r#""/dev/sdf""#),
    ("volume", r#"mount_path = "data""#, 14, r#"mount_path: "data" is not absolute"#, r#"write "/data""#),
    ("volume", r#"mount_path = "~/data""#, 14, "is not absolute", "home directory"),
    ("volume", r#"mount_path = "/""#, 14, "system directory", "/mydata"),
    ("volume", r#"mount_path = "//""#, 14, "system directory", "/mydata"),
    ("volume", r#"mount_path = "/etc/kafka/""#, 14, "system directory", "/var/lib/kafka"),
    ("volume", r#"mount_path = "/var""#, 14, "system directory", "/var/lib/kafka"),
    ("volume", r#"mount_path = "/lib64/x""#, 14, "system directory", "/mydata"),
    ("volume", r#"mount_path = "/var/lib/node-agent""#, 14, "system directory", "/mydata"),
    ("volume", r#"mount_path = "/data/../etc""#, 14, "\"..\"", r#"write "/etc""#),
    ("volume", r#"mount_path = "/a/./b//c""#, 14, "\".\"", r#"write "/a/b/c""#),
    ("volume", r#"mount_path = "/a\nb""#, 14, "line break", "remove it"),
    ("volume", r#"mount_path = "/a\qb""#, 18, "escape", r"write \\"),
    ("volume", r#"mount_path = "/a"#, 17, "the string is not closed", "close it with \""),
    ("volume", r#"file_system = "ext3""#, 15, r#""ext3" is not one of its values"#, "write \"ext4\""),
    ("volume", r#"file_system = "XFS""#, 15, r#""XFS" is not"#, r#"write "xfs""#),
    ("volume", r#"file_system = "btrfs""#, 15, "is not one of its values", r#"write "xfs" or "ext4""#),
    ("volume", r#"mount_options = "noatime,ro""#, 17, "is a string, not a list", r#"["noatime", "ro"]"#),
    ("volume", r#"mount_options = ["noatime,ro"]"#, 18, "holds a comma", r#"write two entries, "noatime", "ro""#),
    ("volume", r#"mount_options = ["noatime", ""]"#, 29, "has an empty entry", "remove it"),
    ("volume", r#"mount_options = ["no atime"]"#, 18, "white space", "two entries"),
    ("volume", r#"mount_options = ["'ro'"]"#, 18, "quote", "remove it"),
    ("volume", r#"mount_options = ["bind"]"#, 18, "does not mount the volume itself", "remove it"),
    ("volume", r#"mount_options = ["loop=/dev/loop0"]"#, 18, "does not mount the volume itself", "remove it"),
    ("volume", r#"mount_options = ["X-mount.subdir=a"]"#, 18, "does not mount the volume itself", "remove it"),
    ("volume", r#"mount_options = ["x-systemd.makefs"]"#, 18, "systemd act on its own", "remove it"),
    ("volume", r#"mount_options = ["x-systemd.automount"]"#, 18, "systemd act on its own", "remove it"),
    ("volume", r#"mount_options = ["nouuid"]"#, 18, "same filesystem", "the agent adds it"),
    ("volume", "mount_options = [1]", 18, "an entry is a number", r#"["noatime"]"#),
    ("volume", "mount_options = [noatime]", 18, "lacks its quotes", r#"write "noatime""#),
    ("volume", r#"mount_options = ["a" "b"]"#, 22, "without a comma", "write a comma"),
    ("volume", r#"mount_options = ["a""#, 17, "the list is not closed", "write ]"),
    ("volume", r#"owner = "kafka:kafka""#, 9, "more than one name", "the group as group"),
    ("volume", "owner = -1", 9, "-1 is not an id", "a number from 0"),
    ("volume", r#"owner = "4294967295""#, 9, "is not an id", "a number from 0"),
    ("volume", "owner = 1.5", 9, "not a name or a number", r#"write owner = "kafka""#),
    ("volume", r#"group = """#, 9, "is empty", "kafka"),
    ("volume", r#"group = "no such""#, 9, "is not the name of an account", "kafka"),
    ("volume", r#"recursive = "true""#, 13, "is a string, not a boolean", "write recursive = true"),
    ("volume", "recursive = 1", 13, "is a number, not a boolean", r#"true or false or "when-owner-differs""#),
    ("volume", r#"recursive = "when_owner_differs""#, 13, "is not one of", r#"write "when-owner-differs""#),
    ("volume", "recursive = True", 13, "neither true nor false", "recursive = true or recursive = false"),
    ("volume", r#"format = "yes""#, 10, "is not one of its values", r#""if-blank" or "never""#),
    ("volume", r#"mountpath = "/x""#, 1, r#"unknown key "mountpath""#, "write mount_path"),
    ("volume", r#"file_system_type = "xfs""#, 1, "unknown key", "write file_system"),
    ("volume", r#"asg_name = "x""#, 1, "unknown key", "move it below [lifecycle]"),
    ("volume", "colour = 1", 1, "unknown key", "remove it; [[volume]] has id, device_name"),
    // [[file]]
    ("file", r#"destination = "etc/x""#, 15, "is not absolute", r#"write "/etc/x""#),
    ("file", r#"destination = "/etc/x/""#, 15, "names a directory", "the file's name"),
    ("file", r#"destination = "/etc/../x""#, 15, "\"..\"", r#"write "/x""#),
    ("file", r#"destination = "/proc/sys/vm/swappiness""#, 15, "stores no files", "write a path on a disk"),
    ("file", "contents = 5", 12, "is a number, not a string", "write contents = \"…\""),
    ("file", r#"contents_base64 = "aGk""#, 0, "", ""),
    ("file", r#"contents_base64 = "a$k=""#, 19, "is not base64 from its character 2 on", "base64 -w0"),
    ("file", r#"contents_base64 = "a""#, 19, "base64", "base64 -w0"),
    ("file", r#"contents_base64 = "_-8=""#, 19, "URL alphabet", "write + for -"),
    ("file", r#"source = "http://h/x""#, 10, "could be tampered with", r#"write "https://h/x""#),
    ("file", r#"source = "S3://b-c/d""#, 10, "capitals", r#"write "s3://b-c/d""#),
    ("file", r#"source = "s3://bucket""#, 10, "names no object", r#"write "s3://bucket/name""#),
    ("file", r#"source = "s3:///key""#, 10, "is not a bucket's name", "s3://bucket/key"),
    ("file", r#"source = "https:///x""#, 10, "names no host", "https://host/path"),
    ("file", r#"source = "https://h/a b""#, 10, "white space", "%20"),
    ("file", r#"source = "file://x/y""#, 10, "is not absolute", r#""/x/y""#),
    ("file", r#"source = "/etc/x""#, 10, "is no URL", r#"write "file:///etc/x""#),
    ("file", r#"source = "ftp://h/x""#, 10, "none of the schemes", "s3://bucket/key"),
    ("file", "mode = 644", 8, "is a number, not a string", r#"write mode = "0644""#),
    ("file", "mode = 0o640", 8, "is a number, not a string", r#"write mode = "0640""#),
    ("file", "mode = 0644", 8, "lacks its quotes", r#"write mode = "0644""#),
    ("file", r#"mode = "0o644""#, 8, "is not an octal mode", r#"write "0644""#),
    ("file", r#"mode = "0689""#, 8, "is not an octal mode", "0644"),
    ("file", r#"mode = "17777""#, 8, "more than 7777", "0644"),
    ("file", r#"mode = "u=rw""#, 8, "is not an octal mode", "chmod"),
    ("file", r#"sha256 = "abc""#, 10, "3 hex digits instead of 64", "sha256sum"),
    ("file", r#"sha256 = "xyz""#, 10, "is not a hex digit", "sha256sum"),
    ("file", r#"content = "x""#, 1, "unknown key", "write contents"),
    // [lifecycle]
    ("lifecycle", r#"asg_name = """#, 12, "is empty", "kafka-node-00"),
    ("lifecycle", r#"hook_nam = "x""#, 1, "unknown key", "write hook_name"),
    ("lifecycle", r#"on_failure = "Abandon""#, 14, "is not one of its values", r#"write "abandon""#),
    ("lifecycle", "hold_for = 3600", 12, "is a number, not a string", r#"write hold_for = "3600s""#),
    ("lifecycle", r#"hold_for = "0s""#, 12, "is zero", r#"write "1h""#),
    ("lifecycle", "heartbeat_timeout = 15m", 21, "lacks its quotes", r#"heartbeat_timeout = "15m""#),
    ("lifecycle", r#"terminate_hook_name = """#, 23, "is empty", "kafka-node-terminate-hook"),
    // [cluster]
    ("cluster", r#"tag = "kafka""#, 7, r#""kafka" is not a tag"#, "write KEY=VALUE"),
    ("cluster", r#"tag = "=kafka""#, 7, "is not a tag", "stateful-cluster=kafka"),
    ("cluster", r#"tag = "a\tb=c""#, 7, "control character", "remove it"),
    ("cluster", "asg_names = []", 13, "is empty", "leave out [cluster]"),
    ("cluster", r#"asg_names = "kafka node 00""#, 13, "is a string, not a list", r#"["kafka node 00"]"#),
    ("cluster", r#"asg_names = [" "]"#, 14, "is empty", "kafka-node-00"),
    ("cluster", "asg_names = [kafka-node-00]", 14, "lacks its quotes", r#"write "kafka-node-00""#),
    ("cluster", r#"gate = "soon""#, 8, "is not a time span", r#"write "2h""#),
    ("cluster", r#"gate = "0s""#, 0, "", ""),
    // [hooks]
    ("hooks", r#"script = "hooks.sh""#, 10, "is not absolute", r#"write "/hooks.sh""#),
    ("hooks", r#"script = "s3://b/k""#, 10, "is not a path on this host", "script_source"),
    ("hooks", r#"script = "file:///h.sh""#, 10, "is not a path", r#"write "/h.sh""#),
    ("hooks", "script = ”/h.sh”", 10, "lacks its quotes", r#"write script = "/h.sh""#),
    ("hooks", r#"script_source = "file:///h.sh""#, 17, "is on this host", r#"write script = "/h.sh""#),
    ("hooks", r#"script_source = "http://h/x.sh""#, 17, "could be tampered with", r#""https://h/x.sh""#),
    ("hooks", r#"script_base64 = "IAo=""#, 17, "the script is empty", "defines"),
    ("hooks", r#"configure = "my func""#, 13, "not the name of a bash function", "letters, digits"),
    ("hooks", r#"configure = "configure()""#, 13, "not the name of a bash function", r#"write "configure""#),
    ("hooks", r#"drain = "then""#, 9, "not the name of a bash function", "letters"),
    ("hooks", r#"source = "s3://bucket/key""#, 1, "unknown key", "write script_source"),
    // [timeouts]
    ("timeouts", "aws = 300", 7, "is a number, not a string", r#"write aws = "300s""#),
    ("timeouts", "aws = 1.5", 7, "is a number, not a string", r#"write aws = "5m""#),
    ("timeouts", r#"hooks = "300""#, 9, "is not a time span", r#"write "300s""#),
    ("timeouts", r#"volume = "two days""#, 10, "is not a time span", r#"write "30m""#),
    ("timeouts", r#"complete = "9999y""#, 12, "longer than a year", r#"write "1h""#),
    ("timeouts", r#"unmuont = "1m""#, 1, "unknown key", "write unmount"),
];

/// The table with this line last, in a configuration that is right otherwise, and the line's number.
fn with_line(table: &str, line: &str) -> (String, usize) {
    let rest = match table {
        "node" => "id = \"00\"\nip = \"10.0.1.10\"\n",
        "volume" => "id = \"vol-0123456789abcdef0\"\nmount_path = \"/mydata\"\nfile_system = \"xfs\"\n",
        "file" => "destination = \"/etc/x\"\ncontents = \"x\"\n",
        "lifecycle" => "asg_name = \"a\"\nhook_name = \"h\"\n",
        "hooks" => "script = \"/h.sh\"\n",
        "cluster" => "tag = \"stateful-cluster=kafka\"\n",
        _ => "",
    };
    // The line takes the place of the same key and of one it excludes.
    let key = line.split(['=', ':']).next().unwrap_or("").trim();
    let schema = crate::config::schema::table(table).unwrap();
    let replaced = |old: &str| {
        let old = old.split(' ').next().unwrap_or("");
        old == key || schema.exclusive(old, key)
    };
    let rest: String = rest.split_inclusive('\n').filter(|old| !replaced(old)).collect();
    let head = if table == "node" { String::new() } else { NODE.to_owned() };
    let hooks = if table == "lifecycle" { "[hooks]\nscript = \"/h.sh\"\n" } else { "" };
    let toml = format!("{head}{hooks}{}\n{rest}{line}", schema.header());
    let number = toml.lines().count();
    (toml, number)
}

#[test]
fn each_wrong_line_is_told_with_its_place_and_remedy() {
    for &(table, line, column, what, instead) in LINES {
        let (toml, number) = with_line(table, line);
        let told = offline(&toml);
        if column == 0 {
            assert!(told.is_ok(), "{line}: {told:?}");
            continue;
        }
        assert_told(line, &told.expect_err(line), &[(number, column, what, instead)]);
    }
}

fn assert_told(case: &str, told: &Mistakes, expected: &[Said<'_>]) {
    assert_eq!(told.len(), expected.len(), "{case}: {told}");
    for (mistake, &(line, column, what, instead)) in told.iter().zip(expected) {
        assert_eq!((mistake.line, mistake.column), (line, column), "{case}: {mistake}");
        assert!(mistake.what.contains(what), "{case}: {mistake}\nlacks {what}");
        assert!(mistake.instead.contains(instead), "{case}: {mistake}\nlacks {instead}");
    }
}

/// Whole texts; `NODE` at their head stands for a right `[node]` of three lines.
const TEXTS: &[(&str, &str, &[Said<'static>])] = &[
    ("nothing at all", "", &[(1, 1, "[node]: missing", r#"write [node] with id = "00" and ip ="#)]),
    ("only a comment", "# later\n", &[(1, 1, "[node]: missing", "write [node]")]),
    (
        "an empty table",
        "\n[node]\n",
        &[
            (2, 1, "[node] id: missing", r#"write id = "00""#),
            (2, 1, "[node] ip: missing", r#"write ip = "10.0.1.10""#),
        ],
    ),
    (
        "a volume without anything",
        "NODE[[volume]]\n",
        &[
            (4, 1, "[[volume]] file_system: missing", "xfs"),
            (4, 1, "[[volume]] id: missing", "vol-0123456789abcdef0"),
            (4, 1, "[[volume]] mount_path: missing", "/mydata"),
        ],
    ),
    (
        "an unclosed header",
        "[node\nid = \"00\"\nip = \"10.0.1.10\"\n",
        &[(1, 1, "header is not closed", "write [node]")],
    ),
    (
        "an unclosed header of a list",
        "NODE[[file]\ndestination=\"/a\"\ncontents=\"\"\n",
        &[(4, 1, "header is not closed", "write [[file]]")],
    ),
    ("a mistyped table", "NODE[volumes]\na = 1\n", &[(4, 2, r#"unknown table "volumes""#, "write [[volume]]")]),
    ("a mistyped node", "[nodes]\nid = \"0\"\n", &[(1, 2, "unknown table", "write [node]")]),
    ("a table nobody knows", "NODE[kafka]\n", &[(4, 2, "unknown table", "[[volume]], [[file]], [hooks]")]),
    (
        "a key above all tables",
        "asg_name = \"x\"\nNODE",
        &[(1, 1, "unknown key \"asg_name\"", "move it below [lifecycle]")],
    ),
    (
        "one bracket too few",
        "NODE[volume]\nid = \"vol-01234567\"\nmount_path = \"/a\"\nfile_system = \"xfs\"\n",
        &[(4, 1, "needs two brackets", "write [[volume]]")],
    ),
    (
        "one bracket too many",
        "[[node]]\nid = \"00\"\n",
        &[(1, 1, "[node] can be written only once", "single brackets")],
    ),
    (
        "values for tables",
        "node = 5\nfile = [1]\n",
        &[(1, 8, "node: is a number", "write [node]"), (2, 9, "file: is a number", "write [[file]]")],
    ),
    ("a key twice", "NODEid = \"01\"\n", &[(4, 1, "\"id\" is written twice", "keep one")]),
    (
        "a table twice",
        "NODE[node]\nid = \"01\"\n",
        &[(4, 2, "\"node\" is written twice", "under one [node]"), (5, 1, "\"id\" is written twice", "keep one")],
    ),
    (
        "two keys on a line",
        "[node]\nid = \"00\" ip = \"10.0.1.10\"\n",
        &[(2, 11, "something follows the value", "on a line")],
    ),
    ("prose", "this is my config\nNODE", &[(1, 1, "no \"=\" after a key", "# in front")]),
    (
        "a lifecycle without hooks",
        "NODE[lifecycle]\nasg_name = \"a\"\nhook_name = \"h\"\n",
        &[(4, 1, "[hooks]: missing, and [lifecycle] needs it", "write [hooks]")],
    ),
    (
        "hooks without a script",
        "NODE[hooks]\ndrain = \"x\"\n",
        &[(4, 1, "[hooks]: has none of script,", "script = \"/usr/local/lib/node/hooks.sh\"")],
    ),
    (
        "two scripts",
        "NODE[hooks]\nscript = \"/a.sh\"\nscript_base64 = \"eDsK\"\nscript_source = \"s3://buc/k\"\n",
        &[
            (6, 17, "excludes script, which is in line 5", "keep only one"),
            (7, 17, "excludes script,", "keep only one"),
        ],
    ),
    (
        "a file without contents",
        "NODE[[file]]\ndestination = \"/a\"\n",
        &[(4, 1, "has none of contents, contents_base64, source", "contents = ")],
    ),
    (
        "a file with two contents",
        "NODE[[file]]\ndestination = \"/a\"\nsource = \"s3://buc/k\"\ncontents = \"x\"\n",
        &[(7, 12, "contents: excludes source, which is in line 6", "keep only one")],
    ),
    (
        "two volumes on one path",
        "NODE[[volume]]\nid = \"vol-01234567\"\nmount_path = \"/a\"\nfile_system = \"xfs\"\n[[volume]]\nid = \"vol-01234568\"\nmount_path = \"/a/\"\nfile_system = \"ext4\"\n",
        &[(10, 14, "\"/a/\" is already the mount path in line 6", "a path of its own")],
    ),
    (
        "one volume twice",
        "NODE[[volume]]\nid = \"vol-01234567\"\nmount_path = \"/a\"\nfile_system = \"xfs\"\n[[volume]]\nid = \"vol-01234567\"\nmount_path = \"/b\"\nfile_system = \"ext4\"\n",
        &[(9, 6, "is already the id in line 5", "the other volume's id")],
    ),
    (
        "files in each other's way",
        "NODE[[file]]\ndestination = \"/a\"\ncontents = \"\"\n[[file]]\ndestination = \"/a\"\ncontents = \"\"\n[[file]]\ndestination = \"/a/b/c\"\ncontents = \"\"\n",
        &[
            (8, 15, "is already the destination in line 5", "another destination"),
            (11, 15, "is below \"/a\"", "another destination"),
        ],
    ),
    (
        "a file on a mount point",
        "NODE[[volume]]\nid = \"vol-01234567\"\nmount_path = \"/a\"\nfile_system = \"xfs\"\n[[file]]\ndestination = \"/a\"\ncontents = \"\"\n",
        &[(9, 15, "a volume's mount path", "below it")],
    ),
    (
        "contents that are not those of the checksum",
        "NODE[[file]]\ndestination = \"/a\"\ncontents = \"hush\"\nsha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\n",
        &[(7, 10, "is not the digest of the contents", "sha256sum")],
    ),
    (
        "an inline script without the functions",
        // x() { :; }
        "NODE[hooks]\nscript_base64 = \"eCgpIHsgOjsgfQ==\"\nconfigure = \"y\"\n",
        &[
            (
                5,
                17,
                "health_check: the script does not define the function wait_for_healthy_cluster",
                "define wait_for",
            ),
            (6, 13, "configure: the script does not define the function y", "define y()"),
        ],
    ),
    (
        "a script with nearly the right function",
        // configure_cluster_nod() { :; }; h() { :; }
        "NODE[hooks]\nhealth_check = \"h\"\nscript_base64 = \"Y29uZmlndXJlX2NsdXN0ZXJfbm9kKCkgeyA6OyB9OyBoKCkgeyA6OyB9\"\n",
        &[(6, 17, "does not define the function configure_cluster_node", "configure = \"configure_cluster_nod\"")],
    ),
    (
        "user data beside settings",
        "source = \"imds\"\nNODE",
        &[(1, 10, "there are settings here, too", "leave only source = \"imds\"")],
    ),
    ("user data that points to itself", "source = \"imds\"\n", &[(1, 10, "no settings here", "write the settings")]),
    ("another source", "source = \"s3\"\n", &[(1, 10, "is not one of its values", "write \"imds\"")]),
    (
        "a list that swallows a key",
        "NODE[[volume]]\nid = \"vol-01234567\"\nfile_system = \"xfs\"\nmount_options = [\"a\",\nmount_path = \"/a\"\n",
        &[(7, 17, "the list is not closed", "write ]")],
    ),
    (
        "a string that swallows a table",
        "[[file]]\ndestination = \"/a\"\ncontents = \"\"\"x\nNODE",
        &[(7, 1, "contents: the string is not closed", "close it with \"\"\"")],
    ),
    (
        "letters before the place",
        "# Größe ✓\n[node]\n\"id\" = \"é\" # ü\nip = \"é✓\"  \n",
        &[(4, 6, "\"é✓\" is no IP address", "10.0.1.10")],
    ),
    ("letters on the line", "node = { id = \"é✓ü\", ip = 5 }\n", &[(1, 27, "is a number", "10.0.1.10")]),
    (
        "lines of Windows",
        "[node]\r\nid = \"00\"\r\nip = 7\r\n[x]\r\njunk\r\n",
        &[(3, 6, "is a number", "10.0.1.10"), (4, 2, "unknown table", "remove it"), (5, 1, "no \"=\"", "key = value")],
    ),
    ("a byte order mark", "\u{feff}nod = 1\nNODE", &[(1, 1, "unknown key \"nod\"", "[node]")]),
];

#[test]
fn each_wrong_text_is_told_with_its_places_and_remedies() {
    for &(case, toml, expected) in TEXTS {
        let told = offline(&toml.replace("NODE", NODE)).expect_err(case);
        assert_told(case, &told, expected);
    }
}

#[test]
fn ten_mistakes_come_in_one_report() {
    let toml = r#"
[node]
id = 7
ip = "10.0.1"

[lifecycle]
asg_name = "kafka-00"
on_failure = "wait"
hold_for = "0s"

[[volume]]
id = "vol-1"
mount_path = "data"
file_system = xfs
mount_options = ["noatime,ro"]
owners = "kafka"

[hooks]
script = "hooks.sh"
"#;
    let told = offline(toml).expect_err("ten mistakes");
    let expected = [
        r#"config.toml:3:6: [node] id: is a number, not a string; write id = "7""#,
        r#"config.toml:4:6: [node] ip: "10.0.1" is no IP address; write the node's fixed address, as "10.0.1.10""#,
        r#"config.toml:6:1: [lifecycle] hook_name: missing; write hook_name = "kafka-node-asg-hook""#,
        r#"config.toml:8:14: [lifecycle] on_failure: "wait" is not one of its values; write "hold" or "abandon""#,
        r#"config.toml:9:12: [lifecycle] hold_for: is zero, and would time out at once; write "1h""#,
        r#"config.toml:12:6: [[volume]] id: "vol-1" is not a volume id; write vol- and 8 or 17 hex digits, as "vol-0123456789abcdef0""#,
        r#"config.toml:13:14: [[volume]] mount_path: "data" is not absolute; write "/data""#,
        r#"config.toml:14:15: [[volume]] file_system: "xfs" lacks its quotes; write file_system = "xfs""#,
        r#"config.toml:15:18: [[volume]] mount_options: "noatime,ro" holds a comma or white space; write two entries, "noatime", "ro""#,
        r#"config.toml:16:1: [[volume]]: unknown key "owners"; write owner"#,
        r#"config.toml:19:10: [hooks] script: "hooks.sh" is not absolute; write "/hooks.sh""#,
    ];
    assert_eq!(lines(&told), expected);
    let whole = told.to_string();
    assert_eq!(whole.lines().next(), Some("the configuration has 11 mistakes"));
    assert_eq!(whole.lines().skip(1).collect::<Vec<_>>(), expected);
}

#[test]
fn no_secret_is_repeated() {
    let texts = [
        "contents = hunter2",
        "contents = \"hunter2",
        "contents = \"\"\"hunter2\nhunter2 \"\" x\n",
        "contents = \"\"\"a\"\"\" hunter2 \"\"\"",
        "contents = [\"hunter2\"]",
        "contents_base64 = \"hunter2$\"",
        "contents_base64 = { x = \"hunter2\" }",
        "contents = \"hunter2\"\nsource = \"https://user:hunter2@h/x?sig=hunter2\"",
        "source = \"http://user:hunter2@h/x?sig=hunter2\"",
        "source = https://h/x?sig=hunter2",
        "source = \"ftp://h/x?sig=hunter2\"",
        "contents = \"hunter2\"\nsha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
        "[hooks]\nscript_base64 = hunter2",
        "[hooks]\nscript_base64 = \"aHVudGVyMg==\"",
        "[hooks]\nscript = \"https://h/x?sig=hunter2\"",
    ];
    for toml in texts {
        let told = offline(&format!("{NODE}[[file]]\ndestination = \"/a\"\n{toml}\n")).expect_err(toml);
        assert!(!told.to_string().contains("hunter2"), "{toml}: {told}");
        assert!(!told.to_string().contains("aHVudGVyMg"), "{toml}: {told}");
    }
}

#[test]
fn a_mistake_points_into_the_layer_it_came_from() {
    let main = format!("{NODE}[[volume]]\nid = \"vol-01234567\"\nmount_path = \"/a\"\nfile_system = \"xfs\"\n");
    let over = "[[volume]]\nid = \"vol-01234567\"\nfile_system = \"ext2\"\n\n[[volume]]\nid = \"vol-01234568\"\nmount_path = \"/a\"\n[timeout]\naws = 1\n";
    let told = layered(&main, over).expect_err("mistakes in the override");
    assert_eq!(
        lines(&told),
        [
            r#"override.toml:3:15: [[volume]] file_system: "ext2" is not one of its values; write "ext4""#,
            r#"override.toml:5:1: [[volume]] file_system: missing; write file_system = "xfs""#,
            r#"override.toml:7:14: [[volume]] mount_path: "/a" is already the mount path in line 6 of config.toml; write a path of its own for each volume"#,
            r#"override.toml:8:2: unknown table "timeout"; write [timeouts]"#,
        ]
    );
}

#[test]
fn mistakes_that_depend_on_the_host_are_reported_only_there() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("hooks.sh");
    std::fs::write(&script, "configure_cluster_node() { :; }\n").unwrap();
    let empty = folder.path().join("empty.sh");
    std::fs::write(&empty, "\n").unwrap();
    let hooks = |path: &std::path::Path| format!("[hooks]\nscript = {:?}\n", path.to_str().unwrap());
    let cases: [(String, &[Said<'_>]); 6] = [
        (
            "[[file]]\ndestination = \"/a\"\ncontents = \"\"\nowner = \"nobody-here\"\ngroup = \"none-here\"\n"
                .to_owned(),
            &[
                (7, 9, "there is no user \"nobody-here\"", "create the user"),
                (8, 9, "there is no group \"none-here\"", "its number"),
            ],
        ),
        (hooks(&folder.path().join("none.sh")), &[(5, 10, "no such file", "put the script there")]),
        (hooks(folder.path()), &[(5, 10, "is a directory; a regular file is wanted", "the script itself")]),
        (hooks(&empty), &[(5, 10, "the script is empty", "defines")]),
        (
            hooks(&script),
            &[(5, 10, "health_check: the script does not define the function wait_for_healthy_cluster", "define")],
        ),
        (
            hooks(&script)
                + "health_check = \"configure_cluster_node\"\nscript_sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\n",
            &[(7, 17, "is not the digest of the script", "sha256sum")],
        ),
    ];
    for (toml, expected) in cases {
        let toml = format!("{NODE}{toml}");
        assert!(offline(&toml).is_ok(), "{toml}: {:?}", offline(&toml));
        let told = load(text("config.toml", &toml), None, Scope::ThisHost(&ThisHost)).expect_err(&toml);
        assert_told(&toml, &told, expected);
    }
}

#[test]
fn a_text_that_is_not_toml_at_all_is_reported_in_one_line() {
    use base64::Engine as _;
    let toml = format!("{NODE}[timeouts]\naws = \"1m\"\n");
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mime = "Content-Type: multipart/mixed; boundary=\"==B==\"\nMIME-Version: 1.0\n\n--==B==\nContent-Type: text/x-shellscript\n\n#!/bin/bash\necho\n--==B==--\n";
    let cases = [
        (encode(toml.as_bytes()), "is base64 of the text, not TOML", "user_data_base64"),
        (
            encode(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00"),
            "is base64 of gzip data",
            "user_data_base64",
        ),
        (mime.to_owned(), "is a MIME message", "plain or gzip"),
        (format!("\n{}", mime.replace('\n', "\r\n")), "is a MIME message", "plain or gzip"),
        ("#cloud-config\nruncmd:\n  - echo\n".to_owned(), "is a cloud-config (YAML)", "plain or gzip"),
        ("---\nnode:\n  id: \"00\"\n".to_owned(), "is YAML", "plain or gzip"),
        ("node:\n  id: \"00\"\n  ip: 10.0.1.10\n".to_owned(), "is YAML", "plain or gzip"),
        ("#!/bin/bash\ncat > /etc/x <<EOF\n[node]\nid = 7\nEOF\n".to_owned(), "is a script", "plain or gzip"),
        ("{\"node\": {\"id\": \"00\"}}\n".to_owned(), "is JSON", "plain or gzip"),
        ("\u{feff}<!DOCTYPE html>\n<html></html>\n".to_owned(), "is an HTML page", "plain or gzip"),
    ];
    for (text_of, what, instead) in cases {
        let told = load(text("user data", &text_of), None, Scope::Offline).expect_err(&text_of);
        assert_eq!(told.len(), 1, "{told}");
        let line = told.to_string();
        assert!(line.contains(&format!("user data:1:1: {what}")) && line.contains(instead), "{line}");
        // The override has the same fault.
        let told = layered(NODE, &text_of).expect_err(&text_of);
        assert!(told.len() == 1 && told.to_string().contains(what), "{told}");
    }
    // Comments, and typing errors in TOML.
    for right in [format!("#!/bin/bash\n{NODE}"), format!("#cloud-config\n{NODE}"), NODE.to_owned()] {
        assert!(offline(&right).is_ok(), "{right}");
    }
    let slip = offline(&format!("source: imds\n{NODE}")).unwrap_err();
    assert!(slip.to_string().contains("no \"=\""), "{slip}");
}

#[test]
fn suspicious_time_spans_are_valid_and_warned_of() {
    let toml = format!(
        "{NODE}[lifecycle]\nasg_name = \"a\"\nhook_name = \"b\"\nhold_for = \"30days\"\n[hooks]\nscript = \"/h.sh\"\n\
         [timeouts]\nhooks = \"5M\"\naws = \"1M\"\nvolume = \"7days\"\ndownloads = \"5m\"\n"
    );
    let mut warnings = lines(&offline(&toml).unwrap().warnings);
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "config.toml:11:9: [timeouts] hooks: \"5M\" is 5 months; if minutes are meant, write \"5m\"",
            "config.toml:12:7: [timeouts] aws: \"1M\" is 1 month; if minutes are meant, write \"1m\"",
            "config.toml:7:12: [lifecycle] hold_for: \"30days\" is 30 days; write a shorter time if that is not intended",
        ]
    );
    let told = offline(&format!("{NODE}[timeouts]\nhooks = \"30M\"\n")).unwrap_err();
    assert!(told.to_string().contains("\"30M\" is longer than a year; write \"30m\""), "{told}");
    assert_eq!(offline(&format!("{NODE}[timeouts]\nhooks = \"5m\"\n")).unwrap().warnings, []);
}

#[test]
fn a_script_that_bash_cannot_read_is_reported_in_one_line() {
    use base64::Engine as _;
    let script = "#!/bin/bash\nconfigure_cluster_node() {\n  :\n}\nwait_for_healthy_cluster() {\n  :\n}\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hooks.sh");
    let cases = [
        (script.replace('\n', "\r\n"), "the script has Windows line endings (CRLF)", r"sed -i 's/\r$//' "),
        (
            format!("\u{feff}{script}"),
            "the script begins with a UTF-8 byte order mark",
            r"sed -i '1s/^\xEF\xBB\xBF//' ",
        ),
        ("<html>\n</html>\n".to_owned(), "the script is an HTML page", "give the bash script"),
    ];
    for (script, what, instead) in cases {
        std::fs::write(&path, &script).unwrap();
        let encoded = base64::engine::general_purpose::STANDARD.encode(&script);
        for key in [format!("script = {path:?}"), format!("script_base64 = \"{encoded}\"")] {
            let toml = format!("{NODE}[hooks]\n{key}\n");
            let told = load(text("config.toml", &toml), None, Scope::ThisHost(&ThisHost)).unwrap_err();
            let line = told.to_string();
            assert!(told.len() == 1 && line.contains(what) && line.contains(instead), "{line}");
        }
        assert!(
            !instead.starts_with("sed")
                || std::process::Command::new("/bin/bash")
                    .args(["-c", &format!("{instead}\"$1\"; grep -c $'\\r\\|\\xef' \"$1\""), "bash"])
                    .arg(&path)
                    .output()
                    .unwrap()
                    .stdout
                    == b"0\n"
        );
    }
}
