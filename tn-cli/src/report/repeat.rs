//! The command that made a result, as a line for a shell, and the facts around it.

use maud::{Markup, html};

use super::data::Outcome;

/// `tnq` with the arguments of this run, quoted for a POSIX shell where that is needed.
pub(crate) fn command_line() -> String {
    let arguments = std::env::args_os().skip(1);
    line(arguments.map(|a| a.to_string_lossy().into_owned()))
}

fn line(arguments: impl Iterator<Item = String>) -> String {
    arguments.fold("tnq".to_owned(), |line, argument| {
        line + " " + &quoted(&argument)
    })
}

fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+%@".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

/// `12.3 s`, `32 min 23 s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..120 => format!("{seconds:.1} s"),
        _ => format!("{} min {} s", whole / 60, whole % 60),
    }
}

/// The command, and the facts that it rests on.
pub(super) fn section(outcome: &Outcome) -> Markup {
    let mut facts: Vec<(&str, String)> = Vec::new();
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|v| (name, v)));
    fact("Input", outcome.input.clone());
    fact("Compressed model", outcome.student.clone());
    fact("Output", outcome.output.clone());
    fact("Seed", outcome.seed.map(|s| s.to_string()));
    fact("Version", outcome.version.clone());
    let total = outcome.seconds.get("total");
    let stages = outcome.seconds.iter().filter(|(name, _)| *name != "total");
    let stages: Vec<String> = stages
        .map(|(name, s)| format!("{name} {}", duration(*s)))
        .collect();
    let total = total.map(|t| match stages.len() {
        0 | 1 => duration(*t),
        _ => format!("{}: {}", duration(*t), stages.join(", ")),
    });
    fact("Time", total);
    html! {
        @match &outcome.command_line {
            Some(line) => {
                p { "The same files, the same version and as many threads give the same bytes." }
                pre tabindex="0" aria-label="The command" { code { (words(line)) } }
            }
            None => p { "This result does not say by which command it was made." },
        }
        dl.facts {
            @for (name, value) in facts { div { dt { (name) } dd { (value) } } }
        }
    }
}

/// A line that is broken between its words; browsers break after the hyphens of a flag, too.
fn words(line: &str) -> Markup {
    html! {
        @for (k, word) in line.split(' ').enumerate() { @if k > 0 { " " } span { (word) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_a_shell_reads_back() {
        let arguments = [
            "compress",
            "a b.onnx",
            "--layer",
            "fc[1-3]$=keep",
            "it's",
            "",
            "--ranks",
            "eps=0.1",
        ];
        let line = line(arguments.iter().map(|a| (*a).to_owned()));
        assert_eq!(
            line,
            r"tnq compress 'a b.onnx' --layer 'fc[1-3]$=keep' 'it'\''s' '' --ranks eps=0.1"
        );
    }
}
