//! `docs/failures.md` is what the sources say: every failure of the catalogue, with the messages that come with it.
//!
//! The sources are read by syn, not run. A message is followed from `Failure::new` through local variables and closures to
//! its format string; what cannot be followed is shown as a placeholder.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use node_agent::failure::{Class, Code};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Block, Expr, ExprCall, ExprClosure, ExprMethodCall, Lit, Local, Macro, Pat, Token};

const TABLE: &str = "docs/failures.md";

#[test]
fn the_table_of_failures_is_what_the_sources_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = table(&sites(&root.join("agent")));
    let path = root.join(TABLE);
    if std::env::var_os("UPDATE_FAILURES").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = table.lines().zip(written.lines()).find(|(new, old)| new != old);
    assert!(
        written == table,
        "{TABLE} is not what the sources say; first difference: {differs:#?}\n\
         write it anew with: UPDATE_FAILURES=1 cargo nextest run --workspace -E 'binary(failures)'"
    );
}

#[test]
fn every_failure_of_the_catalogue_can_happen() {
    let sites = sites(&Path::new(env!("CARGO_MANIFEST_DIR")).join("agent"));
    for code in Code::ALL {
        let made = sites.iter().any(|site| site.codes.contains(&format!("{code:?}")) && !site.messages.is_empty());
        assert!(made, "nothing makes a {code:?}: take it out of the catalogue");
    }
}

/// A place in the sources that creates a failure.
#[derive(Default)]
struct Site {
    /// The catalogue's names; several where it is chosen on the spot.
    codes: BTreeSet<String>,
    messages: Vec<String>,
    remedies: Vec<String>,
    /// Another error follows.
    because: bool,
}

fn table(sites: &[Site]) -> String {
    let mut text = "<!-- Made from the sources by tests/failures.rs: \
UPDATE_FAILURES=1 cargo nextest run --workspace -E 'binary(failures)' -->\n\
# Every failure\n\n\
In the order of the boot sequence. `{…}` stands for what is filled in. After tries in vain, `gave up after {time}: ` stands \
in front; behind what a hook did stand the last lines it printed. Of several remedies the first is the usual one.\n\n\
| code | exit code | tried again? | when | messages | remedy |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for code in Code::ALL {
        let (mut messages, mut remedies) = (Vec::new(), vec![cell(code.remedy())]);
        for site in sites.iter().filter(|site| site.codes.contains(&format!("{code:?}"))) {
            let because = if site.because { ": {cause}" } else { "" };
            messages.extend(site.messages.iter().map(|message| format!("`{}`", cell(&format!("{message}{because}")))));
            remedies.extend(site.remedies.iter().map(|remedy| cell(remedy)));
        }
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} |",
            code.name(),
            code.class().exit_code(),
            tried_again(*code),
            cell(code.meaning()),
            once_each(messages).join("<br>"),
            once_each(remedies).join("<br>"),
        );
    }
    text
}

fn tried_again(code: Code) -> &'static str {
    match code.class() {
        // An instance profile may come minutes after the instance.
        _ if code == Code::Credentials => "yes, for `timeouts.aws`",
        // Only the turn of this node has not come.
        _ if code == Code::ApiThrottled => "yes, to the step's deadline",
        Class::Outage => "yes, for `timeouts.aws`",
        Class::Waiting | Class::SafetyWaiting | Class::LifecycleWaiting => "yes, to the step's deadline",
        Class::Settling => "yes, for a minute",
        Class::Permanent | Class::Safety | Class::Config | Class::LifecycleLost | Class::Locked | Class::Usage => "no",
        Class::Stopped => "no; the next start resumes",
    }
}

fn once_each(mut texts: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts
}

/// Text with the characters escaped that would end a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

// Reading the sources. What is parsed lives as long as the test.

fn sites(dir: &Path) -> Vec<Site> {
    let mut files = Vec::new();
    list(dir, &mut files);
    files.sort();
    let mut sites = Vec::new();
    for path in files {
        // The catalogue only has constructors for the other files.
        if path.ends_with("agent/failure.rs") {
            continue;
        }
        let file: &'static syn::File =
            Box::leak(Box::new(syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap()));
        let mut reader = Reader::default();
        reader.visit_file(file);
        sites.extend(reader.order.iter().map(|at| reader.sites.remove(at).unwrap()));
    }
    assert!(sites.len() > 100, "only {} places that make failures", sites.len());
    sites
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") {
            list(&path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
}

/// What a name stands for.
#[derive(Clone, Copy)]
enum Binding {
    /// A variable's or a constant's value.
    Value(&'static Expr),
    /// The argument at this place of a local closure.
    Argument(&'static str, usize),
    /// Something that is known only when the agent runs.
    Unknown,
}

/// The address of an expression, which tells it from all others.
type Address = usize;

#[derive(Default)]
struct Reader {
    order: Vec<Address>,
    sites: BTreeMap<Address, Site>,
    /// The names in scope, the latest last.
    names: Vec<(&'static str, Binding)>,
    /// The arguments of each call of a plain name, in the function at hand.
    calls: BTreeMap<&'static str, Vec<Vec<Vec<String>>>>,
    /// The calls that are seen now, for when the function is read again.
    seen: BTreeMap<&'static str, Vec<Vec<Vec<String>>>>,
    /// The codes of which the match arm at hand is for one.
    arm: BTreeSet<String>,
    /// The name of the closure that is bound next.
    closure: Option<&'static str>,
}

fn leak(text: impl ToString) -> &'static str {
    Box::leak(text.to_string().into_boxed_str())
}

fn address<T>(node: &T) -> Address {
    std::ptr::from_ref(node).addr()
}

/// `Failure::new` or `Failure::io`.
fn maker(call: &ExprCall) -> Option<String> {
    let Expr::Path(path) = &*call.func else { return None };
    let names: Vec<_> = path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    match &names[..] {
        [.., ty, name] if ty == "Failure" && (name == "new" || name == "io") => Some(name.clone()),
        _ => None,
    }
}

fn name(expr: &Expr) -> Option<&'static str> {
    match expr {
        Expr::Path(path) => path.path.get_ident().map(leak),
        _ => None,
    }
}

/// The `Code::…` in an expression.
struct Codes(BTreeSet<String>);

impl<'a> Visit<'a> for Codes {
    fn visit_path(&mut self, path: &'a syn::Path) {
        let mut last = path.segments.iter().rev();
        if let (Some(code), Some(ty)) = (last.next(), last.next())
            && ty.ident == "Code"
        {
            self.0.insert(code.ident.to_string());
        }
    }
}

fn codes(expr: &Expr) -> BTreeSet<String> {
    let mut codes = Codes(BTreeSet::new());
    codes.visit_expr(expr);
    codes.0
}

fn names_in(pat: &'static Pat) -> Vec<&'static str> {
    struct Names(Vec<&'static str>);
    impl<'a> Visit<'a> for Names {
        fn visit_pat_ident(&mut self, pat: &'a syn::PatIdent) {
            self.0.push(leak(&pat.ident));
        }
    }
    let mut names = Names(Vec::new());
    names.visit_pat(pat);
    names.0
}

impl Reader {
    fn scoped(&mut self, inside: impl FnOnce(&mut Self)) {
        let before = self.names.len();
        inside(self);
        self.names.truncate(before);
    }

    fn unknown(&mut self, pat: &'static Pat) {
        self.names.extend(names_in(pat).into_iter().map(|name| (name, Binding::Unknown)));
    }

    /// Read twice: a closure's arguments are known only when its calls have been seen.
    fn function(&mut self, signature: &'static syn::Signature, block: &'static Block) {
        let outer = std::mem::take(&mut self.calls);
        self.scoped(|reader| {
            for input in &signature.inputs {
                if let syn::FnArg::Typed(typed) = input {
                    reader.unknown(&typed.pat);
                }
            }
            let mut first = Reader { names: reader.names.clone(), ..Reader::default() };
            first.visit_block(block);
            reader.calls = first.seen;
            reader.visit_block(block);
        });
        self.calls = outer;
    }

    /// What a name stands for, and what was in scope there.
    fn look_up(&self, name: &str, scope: usize) -> Option<(Binding, usize)> {
        self.names[..scope].iter().rposition(|(known, _)| *known == name).map(|at| (self.names[at].1, at))
    }

    /// The failure that a chain of methods is called on.
    fn root(&self, expr: &'static Expr, scope: usize) -> Option<Address> {
        match expr {
            Expr::Call(call) if maker(call).is_some() => Some(address(call)),
            Expr::MethodCall(call) => self.root(&call.receiver, scope),
            Expr::Match(matched) => matched.arms.iter().find_map(|arm| self.root(&arm.body, scope)),
            Expr::Path(_) => match self.look_up(name(expr)?, scope)? {
                (Binding::Value(value), at) => self.root(value, at),
                _ => None,
            },
            _ => None,
        }
    }

    /// The texts that an expression can come to; none where that is not known.
    fn texts(&self, expr: &Expr, scope: usize) -> Option<Vec<String>> {
        match expr {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Str(text) => Some(vec![text.value()]),
                _ => None,
            },
            Expr::Macro(found) if found.mac.path.is_ident("format") || found.mac.path.is_ident("format_args") => {
                Some(self.format(&found.mac, scope))
            }
            Expr::Reference(inner) => self.texts(&inner.expr, scope),
            Expr::Paren(inner) => self.texts(&inner.expr, scope),
            Expr::Closure(closure) => self.texts(&closure.body, scope),
            Expr::Block(block) => match block.block.stmts.last()? {
                syn::Stmt::Expr(last, None) => self.texts(last, scope),
                _ => None,
            },
            Expr::If(choice) => {
                let then = match choice.then_branch.stmts.last()? {
                    syn::Stmt::Expr(last, None) => self.texts(last, scope)?,
                    _ => return None,
                };
                let (_, other) = choice.else_branch.as_ref()?;
                Some([then, self.texts(other, scope)?].concat())
            }
            Expr::MethodCall(call) if ["to_owned", "to_string", "into", "clone"].iter().any(|it| call.method == it) => {
                self.texts(&call.receiver, scope)
            }
            Expr::Call(call) => match name(&call.func) {
                // `text`, and what lies beneath.
                Some("with_sources") => {
                    let texts = self.texts(call.args.first()?, scope)?;
                    Some(texts.into_iter().map(|text| text + ": {cause}").collect())
                }
                Some(called) => match self.look_up(called, scope)? {
                    (Binding::Value(value @ Expr::Closure(_)), at) => self.texts(value, at),
                    _ => None,
                },
                _ => None,
            },
            Expr::Path(_) => match self.look_up(name(expr)?, scope)? {
                (Binding::Value(value), at) => self.texts(value, at),
                (Binding::Argument(closure, place), _) => {
                    let calls = self.calls.get(closure)?.iter();
                    let texts: Vec<_> = calls.filter_map(|arguments| arguments.get(place)).flatten().cloned().collect();
                    (!texts.is_empty()).then_some(texts)
                }
                (Binding::Unknown, _) => None,
            },
            _ => None,
        }
    }

    fn texts_or_placeholder(&self, expr: &Expr, scope: usize) -> Vec<String> {
        self.texts(expr, scope).unwrap_or_else(|| vec![placeholder(expr)])
    }

    /// What a `format!` comes to.
    fn format(&self, found: &Macro, scope: usize) -> Vec<String> {
        let arguments = found.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated).unwrap();
        let mut arguments = arguments.into_iter();
        let Some(Expr::Lit(syn::ExprLit { lit: Lit::Str(template), .. })) = arguments.next() else { return Vec::new() };
        let template = template.value();
        let mut texts = vec![String::new()];
        let mut rest = template.as_str();
        while let Some(at) = rest.find(['{', '}']) {
            let (plain, brace) = rest.split_at(at);
            let (filled, after) = match &brace[..brace.len().min(2)] {
                double @ ("{{" | "}}") => (vec![double[..1].to_owned()], &brace[2..]),
                _ => {
                    let (field, after) = brace[1..].split_once('}').unwrap();
                    let variable = field.split(':').next().unwrap();
                    let filled = if variable.is_empty() {
                        self.texts_or_placeholder(&arguments.next().unwrap(), scope)
                    } else {
                        self.texts_or_placeholder(&syn::parse_str(variable).unwrap(), scope)
                    };
                    (filled, after)
                }
            };
            texts = texts
                .iter()
                .flat_map(|text| filled.iter().map(move |filled| format!("{text}{plain}{filled}")))
                .collect();
            rest = after;
        }
        texts.iter().map(|text| format!("{text}{rest}")).collect()
    }
}

/// `{device}` for `self.device.path.display()`.
fn placeholder(expr: &Expr) -> String {
    format!("{{{}}}", spoken(expr).unwrap_or_else(|| "…".to_owned()))
}

/// What a value is called.
fn spoken(expr: &Expr) -> Option<String> {
    let mut words = Vec::new();
    let mut rest = expr;
    loop {
        rest = match rest {
            Expr::Path(path) => {
                words.push(path.path.segments.last()?.ident.to_string());
                break;
            }
            Expr::Field(field) => {
                if let syn::Member::Named(name) = &field.member {
                    words.push(name.to_string());
                }
                &field.base
            }
            Expr::Call(call) => match call.args.first() {
                Some(argument) if call.args.len() == 1 => argument,
                _ => &call.func,
            },
            Expr::MethodCall(call) if call.method == "len" => return Some("number".to_owned()),
            Expr::MethodCall(call) => &call.receiver,
            Expr::Reference(inner) => &inner.expr,
            Expr::Paren(inner) => &inner.expr,
            Expr::Binary(binary) => &binary.left,
            Expr::Index(index) => &index.expr,
            Expr::Try(tried) => &tried.expr,
            Expr::Await(awaited) => &awaited.base,
            _ => return None,
        };
    }
    words.reverse();
    words.retain(|word| !["self", "want", "view", "config", "launch"].contains(&word.as_str()));
    let said = words.join(" ").to_lowercase();
    Some(match said.as_str() {
        "id" | "volume id" => "volume".to_owned(),
        "node instance_id" => "instance".to_owned(),
        "device path" => "device".to_owned(),
        _ => said.replace('_', " "),
    })
}

impl Visit<'static> for Reader {
    fn visit_item_mod(&mut self, module: &'static syn::ItemMod) {
        // A module of tests.
        if !module.attrs.iter().any(|attribute| attribute.path().is_ident("cfg")) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_file(&mut self, file: &'static syn::File) {
        for item in &file.items {
            if let syn::Item::Const(constant) = item {
                self.names.push((leak(&constant.ident), Binding::Value(&constant.expr)));
            }
        }
        visit::visit_file(self, file);
    }

    fn visit_item_fn(&mut self, function: &'static syn::ItemFn) {
        self.function(&function.sig, &function.block);
    }

    fn visit_impl_item_fn(&mut self, function: &'static syn::ImplItemFn) {
        self.function(&function.sig, &function.block);
    }

    fn visit_block(&mut self, block: &'static Block) {
        self.scoped(|reader| visit::visit_block(reader, block));
    }

    fn visit_local(&mut self, local: &'static Local) {
        let pat = match &local.pat {
            Pat::Type(typed) => &typed.pat,
            pat => pat,
        };
        let bound = match (pat, &local.init) {
            (Pat::Ident(bound), Some(init)) => Some((leak(&bound.ident), &*init.expr)),
            _ => None,
        };
        self.closure = bound.filter(|(_, value)| matches!(value, Expr::Closure(_))).map(|(name, _)| name);
        visit::visit_local(self, local);
        match bound {
            Some((name, value)) => self.names.push((name, Binding::Value(value))),
            None => self.unknown(pat),
        }
    }

    fn visit_expr_closure(&mut self, closure: &'static ExprClosure) {
        let called = self.closure.take();
        self.scoped(|reader| {
            for (place, input) in closure.inputs.iter().enumerate() {
                let binding = called.map_or(Binding::Unknown, |called| Binding::Argument(called, place));
                reader.names.extend(names_in(input).into_iter().map(|name| (name, binding)));
            }
            reader.visit_expr(&closure.body);
        });
    }

    fn visit_arm(&mut self, arm: &'static syn::Arm) {
        let mut codes = Codes(BTreeSet::new());
        codes.visit_pat(&arm.pat);
        let outer = if codes.0.is_empty() { None } else { Some(std::mem::replace(&mut self.arm, codes.0)) };
        self.scoped(|reader| {
            reader.unknown(&arm.pat);
            visit::visit_arm(reader, arm);
        });
        self.arm = outer.unwrap_or_default();
    }

    fn visit_expr_if(&mut self, choice: &'static syn::ExprIf) {
        self.scoped(|reader| visit::visit_expr_if(reader, choice));
    }

    fn visit_expr_let(&mut self, condition: &'static syn::ExprLet) {
        visit::visit_expr_let(self, condition);
        self.unknown(&condition.pat);
    }

    fn visit_expr_call(&mut self, call: &'static ExprCall) {
        let scope = self.names.len();
        if let Some(maker) = maker(call) {
            let mut site = Site::default();
            let message = if maker == "new" {
                let code = &call.args[0];
                site.codes = match name(code).and_then(|name| self.look_up(name, scope)) {
                    Some((Binding::Value(value), _)) => codes(value),
                    _ => codes(code),
                };
                assert!(!site.codes.is_empty(), "the code of this failure cannot be followed: {:?}", name(code));
                &call.args[1]
            } else {
                site.codes.insert("LocalIo".to_owned());
                site.because = true;
                &call.args[0]
            };
            site.messages = self.texts_or_placeholder(message, scope);
            self.order.push(address(call));
            self.sites.insert(address(call), site);
        }
        if let Some(called) = name(&call.func) {
            let arguments = call.args.iter().map(|argument| self.texts_or_placeholder(argument, scope)).collect();
            self.seen.entry(called).or_default().push(arguments);
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'static ExprMethodCall) {
        visit::visit_expr_method_call(self, call);
        let scope = self.names.len();
        match call.method.to_string().as_str() {
            "named" if call.args.len() == 1 => {
                let messages = self.texts_or_placeholder(&call.args[0], scope);
                let codes = BTreeSet::from(["LocalIo".to_owned()]);
                self.order.push(address(call));
                self.sites.insert(address(call), Site { codes, messages, because: true, ..Site::default() });
            }
            "because" => {
                if let Some(site) = self.root(&call.receiver, scope).and_then(|root| self.sites.get_mut(&root)) {
                    site.because = true;
                }
            }
            "remedy" if call.args.len() == 1 => {
                let remedies = self.texts_or_placeholder(&call.args[0], scope);
                match self.root(&call.receiver, scope).and_then(|root| self.sites.get_mut(&root)) {
                    Some(site) => site.remedies.extend(remedies),
                    None => {
                        // A failure of somebody else's, known by the code it was matched with.
                        let value = name(&call.receiver).and_then(|name| self.look_up(name, scope));
                        let codes = match value {
                            Some((Binding::Value(value), _)) => codes(value),
                            _ => self.arm.clone(),
                        };
                        assert_eq!(codes.len(), 1, "a remedy for a failure that cannot be followed: {remedies:?}");
                        self.order.push(address(call));
                        self.sites.insert(address(call), Site { codes, remedies, ..Site::default() });
                    }
                }
            }
            _ => {}
        }
    }

    /// Blocks in a macro's arguments, as `select!` has them.
    fn visit_macro(&mut self, found: &'static Macro) {
        let blocks = |input: syn::parse::ParseStream<'_>| {
            let mut blocks = Vec::new();
            while !input.is_empty() {
                if input.peek(syn::token::Brace)
                    && let Ok(block) = input.fork().parse::<Block>()
                {
                    blocks.push(block);
                }
                input.step(|cursor| match cursor.token_tree() {
                    Some((_, rest)) => Ok(((), rest)),
                    None => Err(cursor.error("the end")),
                })?;
            }
            Ok(blocks)
        };
        for block in found.parse_body_with(blocks).unwrap_or_default() {
            let block: &'static Block = Box::leak(Box::new(block));
            self.visit_block(block);
        }
    }
}
