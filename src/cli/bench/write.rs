//! The files that a bench writes, and how one is read back.

use std::path::Path;

use super::{Args, html};
use crate::error::{Error, Result};
use crate::measure::{Check, Report};
use crate::output::{check_writable, is_same_file, write_atomic};

/// Checks before anything is timed that all files can be written.
pub fn check(args: &Args) -> Result<()> {
    let files: Vec<_> = [&args.json, &args.csv, &args.html].into_iter().flatten().collect();
    for (i, file) in files.iter().enumerate() {
        check_writable(file)?;
        if files[..i].iter().any(|other| is_same_file(other, file)) {
            return Err(Error::Usage(format!(
                "{}: two of --json, --csv and --html cannot be one file",
                file.display()
            )));
        }
    }
    Ok(())
}

/// Writes the files that were asked for.
pub fn all(args: &Args, report: &Report) -> Result<()> {
    if let Some(path) = &args.json {
        let text = serde_json::to_string(report).expect("plain data");
        write_atomic(path, |file| writeln!(file, "{text}"))?;
    }
    if let Some(path) = &args.csv {
        let text = csv(report);
        write_atomic(path, |file| file.write_all(text.as_bytes()))?;
    }
    if let Some(path) = &args.html {
        let text = html::page(report);
        write_atomic(path, |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// Reads what [`all`] wrote as JSON.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Config`] if it is something else, or has no times.
pub fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let wrong = |why: String| Error::Config(format!("{}: not what `bench --json` writes: {why}", path.display()));
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    match value.get("format").and_then(|format| format.as_str()) {
        Some(Report::FORMAT) => {}
        Some(other) => {
            return Err(wrong(format!("its format is \"{other}\", this version reads \"{}\"", Report::FORMAT)));
        }
        None => return Err(wrong("it has no field `format`".into())),
    }
    let report: Report = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
    let step = report.step.iter().map(|step| ("step", &step.seconds));
    let operations = report.operations.iter().map(|o| (o.operation.as_str(), &o.seconds));
    let c = &report.ceilings;
    let ceilings = [("fma_f32", &c.fma_f32.seconds), ("copy", &c.copy.seconds)];
    for (name, seconds) in step.chain(operations).chain(ceilings) {
        if seconds.is_empty() || !seconds.seconds().iter().all(|s| *s >= 0.0 && s.is_finite()) {
            return Err(wrong(format!("{name} has no samples, or one that is no time")));
        }
    }
    Ok(report)
}

/// One line for each operation.
fn csv(report: &Report) -> String {
    let mut text =
        "share,nodes,operation,shapes,variant,knobs,kernels,samples,median_seconds,low_seconds,high_seconds,\
        flops,bytes,gflops,gbytes,share_of_ceiling,relative_l2_error\n"
            .to_owned();
    for o in &report.operations {
        let [low, high] = o.seconds.interval();
        let error = match &o.check {
            Check::Equal(error) => error.to_string(),
            Check::Unchecked => String::new(),
            Check::Wrong(_) => "wrong".into(),
        };
        let fields = [
            report.share(o).to_string(),
            o.nodes.len().to_string(),
            o.operation.clone(),
            o.shapes.clone(),
            o.variant.clone(),
            o.knobs.to_string(),
            o.kernels.join(" "),
            o.seconds.len().to_string(),
            o.seconds.median().to_string(),
            low.to_string(),
            high.to_string(),
            o.cost.flops.to_string(),
            o.cost.bytes.to_string(),
            (o.flops_per_second() / 1e9).to_string(),
            (o.bytes_per_second() / 1e9).to_string(),
            o.share_of_ceiling(&report.ceilings).to_string(),
            error,
        ];
        text += &fields.map(|field| quoted(&field)).join(",");
        text.push('\n');
    }
    text
}

/// A field as RFC 4180 wants it.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.into() }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn fields_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("shuffle"), "shuffle");
        assert_eq!(quoted("f32 [1, 2]"), "\"f32 [1, 2]\"");
        assert_eq!(quoted("a \"b\""), "\"a \"\"b\"\"\"");
    }
}
