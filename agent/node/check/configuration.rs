//! The configuration: whether it is valid, and readable by root alone.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{Finding, LIMIT};
use crate::aws::imds::Imds;
use crate::config::{self, Config, Mistake, Scope, UnknownKeys};
use crate::failure::{Code, Failure};
use crate::host::this_host::ThisHost;
use crate::node::settings;

const NAME: &str = "configuration";

/// Checks the text alone, before it reaches a node.
pub(super) async fn offline(from: &str) -> Vec<Finding> {
    let not_offline = |what: String| {
        vec![Finding::attention(NAME, what, "save the user data to a file, and check that: --offline --config FILE")]
    };
    if from == settings::IMDS {
        return not_offline("the instance's user data cannot be read offline".to_owned());
    }
    match settings::read_alone(from).await {
        Ok(texts) if config::wants_user_data(&texts.main.text) => {
            not_offline(format!("{from} points at the instance's user data, which cannot be read offline"))
        }
        Ok(texts) => {
            let report = config::check_offline(texts.main, UnknownKeys::Mistakes);
            match report.summary {
                Some(summary) => {
                    let valid = Finding::ok(NAME, format!("{from} is valid: {summary}"));
                    std::iter::once(valid).chain(warnings(&report.warnings)).collect()
                }
                None => vec![invalid(&Failure::new(Code::ConfigInvalid, report.errors.to_string()))],
            }
        }
        Err(failure) => vec![Finding::failed(NAME, &failure)],
    }
}

/// Settings that are valid but hardly intended.
fn warnings(warnings: &[Mistake]) -> impl Iterator<Item = Finding> {
    warnings.iter().map(|warning| {
        let Mistake { source, line, column, what, instead } = warning;
        Finding::attention(NAME, format!("{source}:{line}:{column}: {what}"), instead.as_str())
    })
}

/// Checks the configuration on this host, and returns it if the other checks can use it.
pub(super) async fn check(from: &str, imds: &Imds) -> (Vec<Finding>, Option<Config>) {
    let texts = match settings::read(from, imds, LIMIT).await {
        Ok(texts) => texts,
        Err(failure) => return (vec![Finding::failed(NAME, &failure)], None),
    };
    let name = texts.main.name.clone();
    let mut findings = Vec::new();
    let config = match texts.clone().validate_in_thread(Scope::ThisHost(&ThisHost)).await {
        Ok(config) => {
            let over = if texts.overrides.is_some() { " with override.toml in force" } else { "" };
            findings.push(Finding::ok(NAME, format!("{name}{over} is valid: {}", config.summary())));
            findings.extend(warnings(&config.warnings));
            Some(config)
        }
        Err(failure) => {
            findings.push(invalid(&failure));
            // If only this host lacks something, an account or the script, the other checks still use the configuration.
            texts.clone().validate(Scope::Offline).ok()
        }
    };
    let files = [(from != settings::IMDS).then_some(from), texts.overrides.is_some().then_some(settings::OVERRIDE)];
    findings.extend(files.into_iter().flatten().map(permissions));
    (findings, config)
}

fn invalid(failure: &Failure) -> Finding {
    let finding = Finding::failed(NAME, failure);
    if failure.code == Code::ConfigInvalid { finding.advise("correct what the lines below name") } else { finding }
}

/// The settings may hold secrets: the contents of files, a presigned URL.
fn permissions(path: &str) -> Finding {
    let name = format!("permissions of {path}");
    match fs::metadata(path) {
        Err(error) => Finding::failed(name, &Failure::io("looking at the file", error)),
        Ok(about) if about.uid() != 0 => Finding::attention(
            name,
            format!("it belongs to user {}", about.uid()),
            format!("chown root:root {path}; chmod 0600 {path}"),
        ),
        // Read and write bits of group and others.
        Ok(about) if about.mode() & 0o066 != 0 => Finding::attention(
            name,
            format!("mode {:04o}: users other than root can read or change it", about.mode() & 0o7777),
            format!("chmod 0600 {path}"),
        ),
        Ok(about) => Finding::ok(name, format!("mode {:04o}", about.mode() & 0o7777)),
    }
}
