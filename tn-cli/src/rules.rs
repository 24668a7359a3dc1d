//! `--layer 'REGEX=format=tt,ranks=16,bits=4'`: rules for the layers whose names match.

use std::str::FromStr;

use clap::ValueEnum;
use regex::Regex;

use crate::nearest::nearest;
use crate::settings::{Settings, parse_bits};

const KEYS: [&str; 7] = [
    "format",
    "layout",
    "modes",
    "ranks",
    "bits",
    "scheme",
    "granularity",
];

/// What a rule does with a layer that it matches.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Leave the weight as it is.
    Keep,
    /// Compress it so.
    Set(Settings),
}

/// A pattern, searched in the names of a layer's weight and of its node, and what to do where it is found.
#[derive(Debug, Clone)]
pub(crate) struct LayerRule {
    pattern: Regex,
    action: Action,
}

impl LayerRule {
    /// The action, if the pattern is found in one of the names.
    pub(crate) fn action_for(&self, names: &[&str]) -> Option<&Action> {
        names
            .iter()
            .any(|name| self.pattern.is_match(name))
            .then_some(&self.action)
    }

    /// What it does where it matches.
    pub(crate) fn action(&self) -> &Action {
        &self.action
    }

    /// Whether it says what weights become, not only that they stay.
    pub(crate) fn sets(&self) -> bool {
        matches!(self.action, Action::Set(_))
    }

    /// The pattern as it was written.
    pub(crate) fn pattern(&self) -> &str {
        self.pattern.as_str()
    }
}

/// What to say of the rules that match none of the layers, each given by its names.
pub(crate) fn idle_rules(rules: &[LayerRule], layers: &[Vec<&str>]) -> Vec<String> {
    let idle = |rule: &&LayerRule| layers.iter().all(|names| rule.action_for(names).is_none());
    let said = rules.iter().filter(idle).map(|rule| {
        let pattern = rule.pattern();
        let near = nearest(pattern, layers.iter().flatten().copied());
        let near = match near.as_slice() {
            [] => String::new(),
            [one] => format!("; did you mean {one}?"),
            several => format!("; the nearest names are {}", several.join(", ")),
        };
        format!("--layer '{pattern}' matches no weight or node{near} (see tnq inspect)")
    });
    said.collect()
}

impl FromStr for LayerRule {
    type Err = String;

    /// The pattern ends at the first `=` after which `keep` or a known key stands, so it may hold `=` itself.
    fn from_str(text: &str) -> Result<Self, String> {
        let starts_action = |rest: &str| {
            rest == "keep"
                || rest
                    .split_once('=')
                    .is_some_and(|(key, _)| KEYS.contains(&key))
        };
        let (at, _) = text
            .match_indices('=')
            .find(|&(at, _)| starts_action(&text[at + 1..]))
            .ok_or_else(|| {
                format!(
                    "expected REGEX=keep or REGEX=KEY=VALUE,.. with KEY one of {}, found {text:?}",
                    KEYS.join(", ")
                )
            })?;
        let (pattern, rest) = (&text[..at], &text[at + 1..]);
        if pattern.is_empty() {
            return Err(format!(
                "expected a pattern before the first '=', found {text:?}"
            ));
        }
        let pattern = Regex::new(pattern).map_err(|error| last_line(&error.to_string()))?;
        let action = if rest == "keep" {
            Action::Keep
        } else {
            Action::Set(parse_settings(rest)?)
        };
        Ok(Self { pattern, action })
    }
}

/// `format=tt,ranks=4,8,4,bits=4`: a part without `=` continues the value before it.
fn parse_settings(text: &str) -> Result<Settings, String> {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for part in text.split(',') {
        match (part.split_once('='), pairs.last_mut()) {
            (Some((key, value)), _) => pairs.push((key, value.to_owned())),
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(part);
            }
            (None, None) => return Err(format!("expected KEY=VALUE, found {part:?}")),
        }
    }
    let mut settings = Settings::default();
    for (key, value) in pairs {
        set(&mut settings, key, &value)
            .map_err(|reason| format!("{}: {reason}", key.escape_debug()))?;
    }
    Ok(settings)
}

fn set(settings: &mut Settings, key: &str, value: &str) -> Result<(), String> {
    fn put<T>(place: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
        match place.replace(value?) {
            None => Ok(()),
            Some(_) => Err("given twice".to_owned()),
        }
    }
    match key {
        "format" => put(&mut settings.format, parse_enum(value)),
        "layout" => put(&mut settings.layout, parse_enum(value)),
        "modes" => put(&mut settings.modes, value.parse()),
        "ranks" => put(&mut settings.ranks, value.parse()),
        "bits" => put(&mut settings.bits, parse_bits(value)),
        "scheme" => put(&mut settings.scheme, parse_enum(value)),
        "granularity" => put(&mut settings.granularity, value.parse()),
        _ => Err(format!("expected one of {}", KEYS.join(", "))),
    }
}

fn parse_enum<T: ValueEnum>(value: &str) -> Result<T, String> {
    T::from_str(value, false).map_err(|_| {
        let names: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|v| Some(v.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("expected one of {}, found {value:?}", names.join(", "))
    })
}

/// The line of a regex error that says what is wrong; the others draw the pattern.
fn last_line(message: &str) -> String {
    message
        .lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .to_owned()
}

#[cfg(test)]
#[path = "../../fuzz/checks/rules.rs"]
mod fuzz;

#[cfg(test)]
mod tests {
    use quant_core::Bits;

    use super::*;
    use crate::settings::{Format, Granularity, Layout, Modes, Ranks, Scheme};

    #[test]
    fn the_kept_corpus_of_the_fuzz_target_is_read() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/rules");
        let files: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
        assert!(!files.is_empty());
        for file in files {
            super::fuzz::check(&std::fs::read(file.unwrap().path()).unwrap());
        }
    }

    fn parse(text: &str) -> Result<(String, Action), String> {
        let rule: LayerRule = text.parse()?;
        Ok((rule.pattern().to_owned(), rule.action))
    }

    #[test]
    fn a_rule_is_a_pattern_and_settings() {
        let full = "layer.[01]=format=tt,layout=split,modes=4x7:2x5,ranks=4,8,4,bits=4,scheme=affine,granularity=block:32";
        let settings = Settings {
            format: Some(Format::Tt),
            layout: Some(Layout::Split),
            modes: Some(Modes {
                input: vec![4, 7],
                output: vec![2, 5],
            }),
            ranks: Some(Ranks::Each(vec![4, 8, 4])),
            bits: Some(Bits::B4),
            scheme: Some(Scheme::Affine),
            granularity: Some(Granularity::Block(32.try_into().unwrap())),
        };
        assert_eq!(
            parse(full),
            Ok(("layer.[01]".to_owned(), Action::Set(settings)))
        );
        assert_eq!(parse("^fc=keep"), Ok(("^fc".to_owned(), Action::Keep)));
        let eps = Settings {
            ranks: Some(Ranks::Eps(0.1)),
            format: Some(Format::LowRank),
            ..Settings::default()
        };
        assert_eq!(
            parse("a=b=ranks=eps=0.1,format=low-rank"),
            Ok(("a=b".to_owned(), Action::Set(eps)))
        );
    }

    #[test]
    fn a_wrong_rule_says_what_was_expected() {
        let check = |text: &str, want: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        };
        check("fc1", "expected REGEX=keep");
        check("fc1=drop", "expected REGEX=keep");
        check("=keep", "expected a pattern");
        check("fc(=keep", "unclosed group");
        check(
            "fc=format=ring",
            "format: expected one of auto, tt, low-rank, tucker, dense, corrected, found \"ring\"",
        );
        check("fc=bits=9", "bits: expected 2 to 8 bits");
        check("fc=bits=4,bits=3", "bits: given twice");
        check("fc=bits=4,rank=3", "rank: expected one of");
        check("fc=modes=4x4", "modes: expected IN:OUT");
    }

    #[test]
    fn ten_thousand_damaged_rules_are_rules_or_errors_of_one_line() {
        let good = [
            "layer.[01]=format=tt,layout=split,modes=4x7:2x5,ranks=4,8,4,bits=4",
            "^(fc|head){1,3}$=keep",
            "a=b=ranks=eps=0.1,granularity=block:32,scheme=affine",
        ];
        let pieces = [
            "=",
            ",",
            "(",
            "[",
            "{9999}",
            "{99999999}",
            "*",
            "\\",
            "\u{0}",
            "é",
            "x",
            "eps=",
            "1e999",
            "-1",
            "keep",
            "=bits=",
            "18446744073709551616",
            "(?i)",
            "\n",
            ":",
        ];
        // SplitMix64.
        let mut state = 2026_u64;
        let mut below = |n: usize| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % n.max(1) as u64) as usize
        };
        let mut parsed = 0;
        for k in 0..10_000 {
            let mut text: Vec<char> = good[k % good.len()].chars().collect();
            for _ in 0..=below(3) {
                let at = below(text.len());
                let end = (at + below(4)).min(text.len());
                let piece = pieces[below(pieces.len())];
                text.splice(at..end, piece.chars());
            }
            let text: String = text.into_iter().collect();
            match text.parse::<LayerRule>() {
                Ok(rule) => {
                    parsed += 1;
                    let _ = idle_rules(&[rule], &[vec!["layer.0", "fc1.weight"]]);
                }
                Err(error) => assert!(!error.contains('\n'), "{text:?}: {error}"),
            }
        }
        assert!(parsed > 200, "{parsed}");
    }

    #[test]
    fn a_pattern_is_searched_in_every_name() {
        let rule: LayerRule = "query=keep".parse().unwrap();
        assert!(
            rule.action_for(&["onnx::MatMul_714", "/layer.0/query/MatMul"])
                .is_some()
        );
        assert!(
            rule.action_for(&["onnx::MatMul_714", "/layer.0/value/MatMul"])
                .is_none()
        );
    }
}
