//! The architecture: which files may import which others, read from the `use` lines and the paths in the code without its tests; and
//! how long the names of tests are.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, ItemFn, ItemMod, ItemUse, UseTree, VisRestricted};

/// A module by its names from the crate's root: `["state", "store"]`; none for `lib.rs`.
type Module = Vec<String>;

/// Which other files each file names.
struct ImportGraph {
    imports: BTreeMap<Module, BTreeSet<Module>>,
}

impl ImportGraph {
    fn read() -> ImportGraph {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("agent");
        let mut files = Vec::new();
        sources(&root, &mut files);
        // A module's tests lie in a folder of this name.
        let is_of_tests = |file: &PathBuf| file.strip_prefix(&root).unwrap().iter().any(|part| part == "tests");
        files.retain(|file| !is_of_tests(file));
        let modules: BTreeMap<Module, PathBuf> = files.into_iter().map(|file| (module(&root, &file), file)).collect();
        let imports = modules.iter().map(|(module, file)| {
            let mut paths = Paths { module, found: Vec::new() };
            paths.visit_file(&syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap());
            let mut others: BTreeSet<Module> = paths.found.into_iter().map(|path| file_of(path, &modules)).collect();
            others.remove(module);
            // The root only lists the modules.
            others.remove(&Vec::new());
            (module.clone(), others)
        });
        ImportGraph { imports: imports.collect() }
    }

    /// The sets of files that import each other in a circle.
    fn circles(&self) -> Vec<Vec<&Module>> {
        let reaches: BTreeMap<&Module, BTreeSet<&Module>> =
            self.imports.keys().map(|module| (module, self.reached_from(module))).collect();
        let mut circles: Vec<Vec<&Module>> = Vec::new();
        for (module, reached) in &reaches {
            let circle: Vec<_> = reached.iter().copied().filter(|other| reaches[other].contains(*module)).collect();
            if !circle.is_empty() && !circles.contains(&circle) {
                circles.push(circle);
            }
        }
        circles
    }

    fn reached_from(&self, module: &Module) -> BTreeSet<&Module> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&Module> = self.imports[module].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module) {
                next.extend(&self.imports[module]);
            }
        }
        reached
    }
}

/// The Rust files in `dir` and below.
fn sources(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn module(root: &Path, file: &Path) -> Module {
    let path = file.strip_prefix(root).unwrap().with_extension("");
    let mut names: Module = path.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if names.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        names.pop();
    }
    names
}

/// The file that a path leads to: its longest prefix that is a module.
fn file_of(mut path: Module, modules: &BTreeMap<Module, PathBuf>) -> Module {
    while !modules.contains_key(&path) {
        path.pop();
    }
    path
}

/// The paths that a file names, made absolute: from the crate's root.
struct Paths<'a> {
    module: &'a Module,
    found: Vec<Module>,
}

impl Paths<'_> {
    fn note(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        let mut from = self.module.clone();
        match first.as_str() {
            "crate" => self.found.push(rest.to_vec()),
            "self" => self.found.push([from, rest.to_vec()].concat()),
            "super" => {
                from.pop();
                let further = rest.iter().take_while(|name| *name == "super").count();
                from.truncate(from.len() - further);
                self.found.push([from, rest[further..].to_vec()].concat());
            }
            _ => {}
        }
    }

    fn note_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.note_tree(&with(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(before, tree)),
            UseTree::Name(name) if name.ident == "self" => self.note(before),
            UseTree::Name(name) => self.note(&with(&name.ident)),
            UseTree::Rename(rename) if rename.ident == "self" => self.note(before),
            UseTree::Rename(rename) => self.note(&with(&rename.ident)),
            UseTree::Glob(_) => self.note(before),
        }
    }
}

fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    })
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_of_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.note_tree(&[], &item.tree);
    }

    // pub(super) grants access and imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&names);
        visit::visit_path(self, path);
    }
}

fn shown(module: &Module) -> String {
    module.join("::")
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let graph = ImportGraph::read();
    assert!(graph.imports.len() > 80, "the sources were not found");
    let circles: Vec<String> = graph
        .circles()
        .into_iter()
        .map(|circle| {
            let arrows = |module: &&Module| {
                let imported = graph.imports[*module].iter().filter(|other| circle.contains(other)).map(shown);
                format!("{} -> {}", shown(module), imported.collect::<Vec<_>>().join(", "))
            };
            circle.iter().map(arrows).collect::<Vec<_>>().join("\n")
        })
        .collect();
    assert!(circles.is_empty(), "{}", circles.join("\n\n"));
}

/// From the bottom up: each imports only from those before it.
const LAYERS: [&str; 15] = [
    "sequence",
    "time",
    "readable",
    "plot",
    "failure",
    "config",
    "host",
    "aws",
    "log",
    "state",
    "runner",
    "lifecycle",
    "node",
    "roll",
    "cli",
];

#[test]
fn no_module_imports_from_a_layer_above_it() {
    let graph = ImportGraph::read();
    let layer = |module: &Module| {
        let name = module[0].as_str();
        LAYERS.iter().position(|layer| *layer == name).unwrap_or_else(|| panic!("{name} has no layer"))
    };
    let modules = graph.imports.iter().filter(|(module, _)| !module.is_empty());
    let upward: Vec<String> = modules
        .flat_map(|(module, imported)| {
            let above = imported.iter().filter(|other| layer(other) > layer(module));
            above.map(|other| format!("{} -> {}", shown(module), shown(other))).collect::<Vec<_>>()
        })
        .collect();
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

/// What a rolling update knows of the host: what runs a command, which process it is, and the clock. It works where no node is.
const HOST_OF_ROLL: [&str; 2] = ["ask", "identity"];

#[test]
fn a_rolling_update_knows_nothing_of_the_nodes_side() {
    let graph = ImportGraph::read();
    let of_node = |module: &&Module| match module.as_slice() {
        [first] => first == "node" || first == "state",
        [first, second, ..] => {
            first == "node" || first == "state" || first == "host" && !HOST_OF_ROLL.contains(&second.as_str())
        }
        [] => false,
    };
    let astray: Vec<String> = graph
        .imports
        .iter()
        .filter(|(module, _)| module.first().is_some_and(|first| first == "roll"))
        .flat_map(|(module, imported)| {
            let astray = imported.iter().filter(of_node);
            astray.map(|other| format!("{} -> {}", shown(module), shown(other))).collect::<Vec<_>>()
        })
        .collect();
    assert!(astray.is_empty(), "{}", astray.join("\n"));
}

#[test]
fn test_names_have_at_most_eighty_characters() {
    let mut files = Vec::new();
    for folder in ["agent", "tests"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    }
    let mut names = TestNames::default();
    for file in files {
        names.visit_file(&syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap());
    }
    assert!(names.0.len() > 500, "the tests were not found");
    let long: Vec<_> = names.0.iter().filter(|name| name.len() > 80).collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[derive(Default)]
struct TestNames(Vec<String>);

impl<'ast> Visit<'ast> for TestNames {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        // `#[test]` and `#[tokio::test]`.
        let is_test = |attribute: &Attribute| attribute.path().segments.last().is_some_and(|last| last.ident == "test");
        if function.attrs.iter().any(is_test) {
            self.0.push(function.sig.ident.to_string());
        }
    }
}

/// A file below `agent/`.
struct Source {
    name: String,
    whole: String,
}

impl Source {
    fn all() -> Vec<Source> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("agent");
        let mut files = Vec::new();
        sources(&root, &mut files);
        sources(&root.join("config/tests"), &mut files);
        let read = |file: PathBuf| {
            let name = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            Source { name, whole: fs::read_to_string(file).unwrap() }
        };
        files.into_iter().map(read).collect()
    }

    /// Without the unit tests.
    fn shipped(&self) -> &str {
        let of_tests = self.name.contains("/tests/");
        let code = self.whole.split("\n#[cfg(test)]\nmod ").next().unwrap();
        if of_tests { "" } else { code }
    }
}

#[test]
fn a_file_of_more_than_400_lines_says_first_why_it_is_one_file() {
    let says_why = |source: &Source| {
        let comment = source.whole.lines().take_while(|line| line.starts_with("//!"));
        comment.collect::<Vec<_>>().join(" ").to_lowercase().contains("in one file")
    };
    let mute: Vec<String> = Source::all()
        .iter()
        .filter(|source| source.whole.lines().count() > 400 && !says_why(source))
        .map(|source| source.name.clone())
        .collect();
    assert!(mute.is_empty(), "{}", mute.join("\n"));
}

#[test]
fn no_function_is_longer_than_60_lines() {
    let head = regex_lite::Regex::new(r"^(\s*)(?:pub(?:\([a-z]+\))? )?(?:const |async |unsafe )*fn (\w+)").unwrap();
    let mut long = Vec::new();
    for source in Source::all() {
        let lines: Vec<&str> = source.whole.lines().collect();
        for (first, line) in lines.iter().enumerate() {
            let Some(found) = head.captures(line).filter(|_| !line.ends_with([';', '}'])) else { continue };
            // Formatted code closes a function where it has opened it.
            let end = format!("{}}}", &found[1]);
            let length = 1 + lines[first..].iter().take_while(|line| **line != end).count();
            let name = format!("{}: {}", source.name, &found[2]);
            if length > 60 {
                long.push(format!("{name}: {length} lines"));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_host_alone_starts_programs_and_reads_proc_and_sys() {
    let reads = regex_lite::Regex::new(r#""/(proc|sys)/[^"]"#).unwrap();
    let mut astray = Vec::new();
    for source in Source::all() {
        for line in source.shipped().lines() {
            let starts = line.contains("Command::new(") && !line.contains("clap::Command::new(");
            let of_host = source.name.starts_with("host/");
            if starts && source.name != "host/command.rs" || reads.is_match(line) && !of_host {
                astray.push(format!("{}: {}", source.name, line.trim()));
            }
        }
    }
    assert!(astray.is_empty(), "{}", astray.join("\n"));
}
