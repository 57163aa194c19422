//! As much of Terraform as the tests need: reads a module, applies its variables' types, defaults and checks, and evaluates
//! its locals and templates. A function that the module comes to use must be added to [`FUNCTIONS`]; without it the tests
//! fail.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hcl::eval::{Context, Evaluate, FuncArgs, FuncDef, ParamType};
use hcl::expr::{Expression, FuncCall, ObjectKey};
use hcl::{Attribute, Block, Body, Map, Template, Value};

pub type Object = Map<String, Value>;

/// A directory's `.tf` files.
pub struct Module {
    pub dir: PathBuf,
    pub body: Body,
    /// The files' text, without comments.
    pub source: String,
}

/// A `variable` block.
pub struct Variable {
    pub name: String,
    pub of_type: Expression,
    pub default: Option<Expression>,
    pub description: Option<String>,
    pub sensitive: bool,
    block: Body,
}

/// A module with its inputs: what `var`, `local` and `path` stand for in it.
pub struct Instance<'a> {
    pub module: &'a Module,
    pub context: Context<'static>,
}

impl Module {
    /// Reads the module in this directory of the checkout.
    pub fn read(dir: &str) -> Module {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "tf"));
        files.sort();
        let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap() + "\n").collect();
        let body = hcl::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let source = code.map(|line| format!("{line}\n")).collect();
        Module { dir, body, source }
    }

    /// The blocks of this kind and with these labels, `*` for any.
    pub fn blocks(&self, kind: &str, labels: &[&str]) -> Vec<&Block> {
        let wanted = |block: &&Block| {
            let given = block.labels().iter().map(hcl::structure::BlockLabel::as_str);
            block.identifier() == kind
                && block.labels().len() == labels.len()
                && given.zip(labels).all(|(given, wanted)| *wanted == "*" || given == *wanted)
        };
        self.body.blocks().filter(wanted).collect()
    }

    /// The one block of this kind and with these labels.
    pub fn block(&self, kind: &str, labels: &[&str]) -> &Block {
        self.blocks(kind, labels).into_iter().next().unwrap_or_else(|| panic!("there is no {kind} {labels:?}"))
    }

    /// Its inputs, by name.
    pub fn variables(&self) -> BTreeMap<String, Variable> {
        let variables = self.blocks("variable", &["*"]).into_iter().map(|block| {
            let name = block.labels()[0].as_str().to_owned();
            let of_type = attribute(&block.body, "type").unwrap_or_else(|| panic!("{name} has no type")).clone();
            let variable = Variable {
                name: name.clone(),
                of_type,
                default: attribute(&block.body, "default").cloned(),
                description: attribute(&block.body, "description").map(text_of),
                sensitive: attribute(&block.body, "sensitive") == Some(&Expression::Bool(true)),
                block: block.body.clone(),
            };
            (name, variable)
        });
        variables.collect()
    }

    /// Gives the module its inputs. `world` is what resources and data sources are known to be, as in `aws_x`, `data`,
    /// `each`.
    ///
    /// Errors: the message of the first check that does not hold; or what is wrong with an input.
    pub fn instantiate(&self, inputs: &Object, world: &Object) -> Result<Instance<'_>, String> {
        let mut context = functions();
        for (name, value) in world {
            context.declare_var(name.as_str(), value.clone());
        }
        context.declare_var("path", object([("module", self.dir.to_str().unwrap().into())]));

        let variables = self.variables();
        if let Some(unknown) = inputs.keys().find(|name| !variables.contains_key(*name)) {
            return Err(format!("there is no input {unknown}"));
        }
        let mut values = Object::new();
        for (name, variable) in &variables {
            let given = match (inputs.get(name), &variable.default) {
                (Some(value), _) => value.clone(),
                (None, Some(default)) => evaluate(default, &context)?,
                (None, None) => return Err(format!("{name} is required")),
            };
            let value = convert(&given, &variable.of_type).map_err(|why| format!("{name}: {why}"))?;
            values.insert(name.clone(), value);
        }
        context.declare_var("var", Value::Object(values));
        for variable in variables.values() {
            check(&variable.block, "validation", &context)?;
        }

        let mut pending: Vec<&Attribute> =
            self.blocks("locals", &[]).into_iter().flat_map(|block| block.body.attributes()).collect();
        let mut locals = Object::new();
        while !pending.is_empty() {
            context.declare_var("local", Value::Object(locals.clone()));
            let mut failed = Vec::new();
            let before = pending.len();
            pending.retain(|local| match evaluate(&local.expr, &context) {
                Ok(value) => {
                    locals.insert(local.key.to_string(), value);
                    false
                }
                Err(why) => {
                    failed.push(why);
                    true
                }
            });
            // Those that are left need each other, or are wrong.
            if pending.len() == before {
                return Err(failed.join("\n"));
            }
        }
        context.declare_var("local", Value::Object(locals));
        Ok(Instance { module: self, context })
    }
}

impl Instance<'_> {
    /// The value of an expression here.
    pub fn evaluate(&self, expression: &Expression) -> Result<Value, String> {
        evaluate(expression, &self.context)
    }

    /// The value of a block's attribute here.
    pub fn value(&self, body: &Body, name: &str) -> Value {
        self.evaluate(attribute(body, name).unwrap_or_else(|| panic!("there is no {name}"))).unwrap()
    }

    /// A local.
    pub fn local(&self, name: &str) -> Value {
        self.evaluate(&expression(&format!("local.{name}"))).unwrap()
    }

    /// Whether the preconditions of a resource hold. Errors: the message of the first that does not.
    pub fn preconditions(&self, resource: &[&str]) -> Result<(), String> {
        let lifecycle = self.module.block("resource", resource).body.blocks().find(|b| b.identifier() == "lifecycle");
        check(&lifecycle.unwrap().body, "precondition", &self.context)
    }
}

/// An attribute of a body.
pub fn attribute<'a>(body: &'a Body, name: &str) -> Option<&'a Expression> {
    body.attributes().find(|attribute| attribute.key.as_str() == name).map(|attribute| &attribute.expr)
}

/// An expression's text, read.
pub fn expression(text: &str) -> Expression {
    try_expression(text).unwrap_or_else(|| panic!("no expression: {text}"))
}

/// An expression's text, read, where it is one.
pub fn try_expression(text: &str) -> Option<Expression> {
    hcl::parse(&format!("it = {text}\n")).ok()?.into_attributes().next().map(|attribute| attribute.expr)
}

/// A plain text or heredoc.
pub fn text_of(expression: &Expression) -> String {
    match evaluate(expression, &Context::new()) {
        Ok(Value::String(text)) => text,
        other => panic!("no text: {other:?}"),
    }
}

pub fn object<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn evaluate(expression: &Expression, context: &Context) -> Result<Value, String> {
    expression.evaluate(context).map_err(|error| error.to_string())
}

fn check(body: &Body, kind: &str, context: &Context) -> Result<(), String> {
    for block in body.blocks().filter(|block| block.identifier() == kind) {
        let condition = attribute(&block.body, "condition").unwrap();
        if evaluate(condition, context)? != Value::Bool(true) {
            return Err(text_of(attribute(&block.body, "error_message").unwrap()));
        }
    }
    Ok(())
}

/// A value converted to a type, as Terraform converts a module's inputs.
fn convert(value: &Value, of_type: &Expression) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    match of_type {
        Expression::Variable(kind) => match (kind.as_str(), value) {
            ("string", Value::String(_)) | ("number", Value::Number(_)) | ("bool", Value::Bool(_)) => Ok(value.clone()),
            ("string", Value::Number(number)) => Ok(number.to_string().into()),
            ("string", Value::Bool(flag)) => Ok(flag.to_string().into()),
            ("number", Value::String(text)) => match text.parse::<u64>() {
                Ok(number) => Ok(number.into()),
                Err(_) => Err(format!("{text} is no number")),
            },
            (kind, other) => Err(format!("{other} is no {kind}")),
        },
        Expression::FuncCall(call) => convert_collection(value, call),
        other => Err(format!("{other} is no type")),
    }
}

fn convert_collection(value: &Value, call: &FuncCall) -> Result<Value, String> {
    let of = &call.args[0];
    match (call.name.name.as_str(), value) {
        ("list" | "set", Value::Array(items)) => items.iter().map(|item| convert(item, of)).collect(),
        ("map", Value::Object(entries)) => {
            entries.iter().map(|(key, value)| Ok((key.clone(), convert(value, of)?))).collect()
        }
        ("object", Value::Object(entries)) => {
            let Expression::Object(fields) = of else { return Err(format!("{of} is no object type")) };
            let mut converted = Object::new();
            for (key, of_type) in fields {
                let ObjectKey::Identifier(key) = key else { return Err(format!("{key} is no attribute")) };
                let given = entries.get(key.as_str()).filter(|value| !value.is_null());
                let optional = match of_type {
                    Expression::FuncCall(call) if call.name.name.as_str() == "optional" => Some(&call.args),
                    _ => None,
                };
                let value = match (given, optional) {
                    (Some(value), Some(arguments)) => convert(value, &arguments[0])?,
                    (Some(value), None) => convert(value, of_type)?,
                    (None, Some(arguments)) => match arguments.get(1) {
                        Some(default) => evaluate(default, &Context::new())?,
                        None => Value::Null,
                    },
                    (None, None) => return Err(format!("attribute {key} is required")),
                };
                converted.insert(key.to_string(), value);
            }
            Ok(Value::Object(converted))
        }
        (kind, other) => Err(format!("{other} is no {kind}")),
    }
}

type Function = fn(FuncArgs) -> Result<Value, String>;

/// Terraform's functions, by their documentation.
const FUNCTIONS: &[(&str, Function)] = &[
    ("alltrue", |args| Ok(array(&args[0])?.iter().all(|item| *item == Value::Bool(true)).into())),
    // Null where it fails: see `can`.
    ("base64decode", |args| {
        let bytes = args[0].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map_or(Value::Null, Value::String))
    }),
    ("base64encode", |args| Ok(BASE64_STANDARD.encode(text(&args[0])?).into())),
    // Arguments are evaluated first here, so that a failure would end it all: `regex` gives null for what does not match.
    ("can", |args| Ok((!args[0].is_null()).into())),
    ("ceil", |args| Ok((args[0].as_number().and_then(hcl::Number::as_f64).ok_or("no number")?.ceil() as u64).into())),
    ("chomp", |args| Ok(text(&args[0])?.trim_end_matches(['\n', '\r']).into())),
    ("concat", |args| joined(args.iter())),
    ("contains", |args| Ok(array(&args[0])?.contains(&args[1]).into())),
    ("distinct", |args| {
        let mut seen = Vec::new();
        for item in array(&args[0])? {
            if !seen.contains(item) {
                seen.push(item.clone());
            }
        }
        Ok(seen.into())
    }),
    ("flatten", |args| joined(array(&args[0])?.iter())),
    ("floor", |args| Ok((args[0].as_number().and_then(hcl::Number::as_f64).ok_or("no number")?.floor() as i64).into())),
    ("indent", |args| {
        let spaces = args[0].as_number().and_then(hcl::Number::as_u64).ok_or("no number")?;
        Ok(text(&args[1])?.replace('\n', &format!("\n{}", " ".repeat(spaces as usize))).into())
    }),
    ("join", |args| {
        let items: Result<Vec<_>, _> = array(&args[1])?.iter().map(text).collect();
        Ok(items?.join(text(&args[0])?).into())
    }),
    ("jsonencode", |args| {
        let json = serde_json::to_string(&args[0]).map_err(|error| error.to_string())?;
        // As Go's encoder does.
        let escapes = ['<', '>', '&', '\u{2028}', '\u{2029}'];
        Ok(escapes.iter().fold(json, |json, c| json.replace(*c, &format!("\\u{:04x}", u32::from(*c)))).into())
    }),
    ("keys", |args| {
        let mut keys: Vec<_> = args[0].as_object().ok_or("no object")?.keys().cloned().collect();
        keys.sort();
        Ok(keys.into())
    }),
    ("length", |args| match &args[0] {
        Value::String(text) => Ok(text.chars().count().into()),
        Value::Array(items) => Ok(items.len().into()),
        other => Err(format!("{other} has no length")),
    }),
    ("lookup", |args| {
        let entries = args[0].as_object().ok_or("no object")?;
        Ok(entries.get(text(&args[1])?).unwrap_or(&args[2]).clone())
    }),
    ("merge", |args| {
        let mut merged = Object::new();
        for entries in args.iter() {
            merged.extend(entries.as_object().ok_or("no object")?.clone());
        }
        Ok(Value::Object(merged))
    }),
    ("regex", |args| match &args[1] {
        Value::String(text) => {
            let regex = regex_lite::Regex::new(self::text(&args[0])?).map_err(|error| error.to_string())?;
            Ok(regex.find(text).map_or(Value::Null, |found| found.as_str().into()))
        }
        _ => Ok(Value::Null),
    }),
    // Terraform's searches for a regular expression where there are slashes around it. Of null it fails, which only can() sees.
    ("replace", |args| {
        if args[0].is_null() {
            return Ok(Value::Null);
        }
        let (whole, pattern, new) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
        match pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            Some(pattern) => {
                let regex = regex_lite::Regex::new(pattern).map_err(|error| error.to_string())?;
                Ok(regex.replace_all(whole, new).into_owned().into())
            }
            None => Ok(whole.replace(pattern, new).into()),
        }
    }),
    ("sort", |args| {
        let mut items: Vec<_> =
            array(&args[0])?.iter().map(|item| text(item).map(str::to_owned)).collect::<Result<_, _>>()?;
        items.sort();
        Ok(items.into())
    }),
    ("split", |args| Ok(text(&args[1])?.split(text(&args[0])?).collect::<Vec<_>>().into())),
    ("startswith", |args| Ok(text(&args[0])?.starts_with(text(&args[1])?).into())),
    ("templatefile", |args| {
        let path = text(&args[0])?;
        let template = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let template = Template::from_str(&template).map_err(|error| format!("{path}: {error}"))?;
        let mut context = functions();
        for (name, value) in args[1].as_object().ok_or("no object")? {
            context.declare_var(name.as_str(), value.clone());
        }
        template.evaluate(&context).map(Value::String).map_err(|error| format!("{path}: {error}"))
    }),
    ("tonumber", |args| Ok(text(&args[0])?.parse::<u64>().map_err(|error| error.to_string())?.into())),
    ("trimprefix", |args| {
        let (whole, prefix) = (text(&args[0])?, text(&args[1])?);
        Ok(whole.strip_prefix(prefix).unwrap_or(whole).into())
    }),
    ("trimsuffix", |args| {
        let (whole, suffix) = (text(&args[0])?, text(&args[1])?);
        Ok(whole.strip_suffix(suffix).unwrap_or(whole).into())
    }),
    ("trimspace", |args| Ok(text(&args[0])?.trim().into())),
];

fn functions() -> Context<'static> {
    let mut context = Context::new();
    for (name, function) in FUNCTIONS {
        context.declare_func(*name, FuncDef::builder().variadic_param(ParamType::Any).build(*function));
    }
    context
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("{value} is no text"))
}

fn array(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{value} is no list"))
}

fn joined<'a>(lists: impl Iterator<Item = &'a Value>) -> Result<Value, String> {
    Ok(lists.map(|list| array(list).cloned()).collect::<Result<Vec<_>, _>>()?.concat().into())
}
