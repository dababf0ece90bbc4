//! How the output was made, and the command that makes it again.

use maud::html;

use super::{Draw, Drawing, Figure};
use crate::html_table::{Cell, Table};
use crate::{Run, RunRecord};

pub(super) const FIGURE: Figure = Figure {
    id: "provenance",
    title: "How it was made",
    question: "Can I make it again?",
    needs: "a record",
    draw: Draw::Each(|run, _| Some(draw(run))),
};

fn draw(run: &Run) -> Drawing {
    let record = &run.record;
    let text = |it: &str| Cell::Text(it.to_owned());
    let mut facts: Vec<(String, String)> = Vec::new();
    let mut fact = |key: &str, value: String| {
        if !value.is_empty() {
            facts.push((key.to_owned(), value));
        }
    };
    fact("version of qcc", record.version.clone());
    fact("input", record.input.clone());
    fact("output", record.output.clone().unwrap_or_default());
    fact("seed", record.seed.to_string());
    fact("pipeline", record.pipeline.clone());
    for (key, value) in &record.provenance {
        fact(key, value.clone());
    }
    let rows = |pairs: &mut dyn Iterator<Item = (&String, &String)>| {
        pairs.map(|(key, value)| vec![text(key), text(value)]).collect::<Vec<_>>()
    };
    let mut tables = vec![Table {
        caption: "what is recorded".to_owned(),
        head: vec!["what", "value"],
        rows: rows(&mut facts.iter().map(|it| (&it.0, &it.1))),
        is_open: true,
    }];
    if !record.options.is_empty() {
        tables.push(Table {
            caption: format!("{} options", record.options.len()),
            head: vec!["option", "value"],
            rows: rows(&mut record.options.iter()),
            is_open: false,
        });
    }
    if !record.passes.is_empty() {
        let row = |it: &crate::PassRow| {
            vec![text(&it.name), Cell::Count(it.patches as u64), Cell::Count(it.notes as u64)]
        };
        tables.push(Table {
            caption: format!("{} passes", record.passes.len()),
            head: vec!["pass", "changes", "messages"],
            rows: record.passes.iter().map(row).collect(),
            is_open: false,
        });
    }
    if !record.notes.is_empty() {
        let row = |it: &crate::Note| {
            let place = it.place.clone().unwrap_or_default();
            vec![text(&it.severity), text(&it.code), text(&it.message), Cell::Name(place)]
        };
        tables.push(Table {
            caption: format!("{} messages", record.notes.len()),
            head: vec!["kind", "code", "message", "place"],
            rows: record.notes.iter().map(row).collect(),
            is_open: false,
        });
    }
    let lead = command(record)
        .map(|it| html! { p { "To make it again:" } pre tabindex="0" { code { (it) } } });
    Drawing { lead, tables, ..Default::default() }
}

/// The command that makes the output again; `None` where the record does not say.
fn command(record: &RunRecord) -> Option<String> {
    if record.pipeline.is_empty() && record.options.is_empty() {
        return None;
    }
    let input = match record.input.as_str() {
        "" => "MODEL.onnx",
        it => it,
    };
    let mut words = vec!["qcc".to_owned(), "quantize".to_owned(), input.to_owned()];
    let mut option = |name: &str, value: &str| {
        if value == "true" {
            words.push(format!("--{name}"));
        } else if value.starts_with('-') {
            words.push(format!("--{name}={value}"));
        } else {
            words.extend([format!("--{name}"), value.to_owned()]);
        }
    };
    if record.options.is_empty() {
        option("passes", &record.pipeline);
        option("seed", &record.seed.to_string());
    }
    for (name, values) in &record.options {
        // An option that may be repeated has a line for each value.
        values.split('\n').for_each(|it| option(name, it));
    }
    if let Some(output) = &record.output {
        option("output", output);
    }
    shlex::try_join(words.iter().map(String::as_str)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_command_has_every_option() {
        let options = [("bits", "4"), ("exclude", "a.*\nb c"), ("sym", "true")];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let record = RunRecord {
            input: "my model.onnx".to_owned(),
            output: Some("o.onnx".to_owned()),
            options: BTreeMap::from(options),
            ..Default::default()
        };
        let want = "qcc quantize 'my model.onnx' --bits 4 --exclude 'a.*' --exclude 'b c' --sym --output o.onnx";
        assert_eq!(command(&record).unwrap(), want);
    }

    #[test]
    fn metadata_alone_give_the_pipeline() {
        let record = RunRecord {
            pipeline: "rtn,pack{layout=nbits}".to_owned(),
            seed: 7,
            ..Default::default()
        };
        let want = "qcc quantize MODEL.onnx --passes 'rtn,pack{layout=nbits}' --seed 7";
        assert_eq!(command(&record).unwrap(), want);
        assert_eq!(command(&RunRecord::default()), None);
    }
}
