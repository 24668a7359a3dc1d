//! The command that made a result, as a line for a shell.

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
