//! Tensors in other files. A model may come from a stranger, and must not reach other files.

use onnx_protobuf::{StringStringEntryProto, TensorProto};

use crate::bench::{Bench, RTN, SIZE, bytes_of, floats, model, numbers, product};

fn external(entries: &[(&str, &str)]) -> Vec<u8> {
    let entry = |it: &(&str, &str)| StringStringEntryProto {
        key: Some(it.0.to_owned()),
        value: Some(it.1.to_owned()),
    };
    let weight = TensorProto {
        raw_data: None,
        external_data: entries.iter().map(entry).collect(),
        data_location: Some(1),
        ..floats("w", &[SIZE, SIZE], &[])
    };
    model(product(&[-1, SIZE as i64], weight))
}

fn weight() -> Vec<u8> {
    bytes_of(&numbers(SIZE * SIZE))
}

fn bench(entries: &[(&str, &str)]) -> Bench {
    let bench = Bench::new(&external(entries));
    bench.put("w.bin", &weight());
    bench
}

const CODE: &str = "QCC0104";

#[test]
fn places_and_ranges_that_are_refused() {
    let length = (SIZE * SIZE * 4).to_string();
    for (entries, text) in [
        (&[("location", "../w.bin")][..], "'../w.bin' is not a plain path"),
        (&[("location", "sub/../../w.bin")], "is not a plain path"),
        (&[("location", "/etc/hostname")], "'/etc/hostname' is not a plain path"),
        (&[("location", "..\\w.bin")], "is not a plain path"),
        (&[("location", "missing.bin")], "'missing.bin' cannot be read"),
        (&[("location", ".")], "not a file"),
        (&[("location", "in.onnx")], "are outside of its"),
        (&[("location", "out.onnx")], "'out.onnx' cannot be read"),
        (&[("location", "")], "no location is given"),
        (&[("offset", "0"), ("length", &length)], "no location is given"),
        (&[], "no location is given"),
        (&[("location", "w.bin"), ("offset", "-8")], "offset '-8' is no number"),
        (&[("location", "w.bin"), ("length", "-8")], "length '-8' is no number"),
        (&[("location", "w.bin"), ("offset", "8")], "are outside of its"),
        (&[("location", "w.bin"), ("offset", "18446744073709551615")], "are outside of its"),
        (&[("location", "w.bin"), ("offset", "99999999999999999999")], "is no number"),
        (&[("location", "w.bin"), ("length", "16")], "length is 16, but the shape needs"),
    ] {
        bench(entries).refused(RTN, 1, CODE, &["tensor 'w'", text, "help: put the data file"]);
    }
}

#[test]
fn a_length_may_be_missing() {
    let bench = bench(&[("location", "w.bin")]);
    bench.passes(RTN);
    assert!(bench.read("w.bin") == weight());
}

#[cfg(unix)]
#[test]
fn links_and_pipes() {
    use std::os::unix::fs::symlink;
    let other = tempfile::TempDir::new().unwrap();
    let secret = other.path().join("secret");
    std::fs::write(&secret, weight()).unwrap();

    let linked = bench(&[("location", "link.bin")]);
    symlink(&secret, linked.path("link.bin")).unwrap();
    linked.refused(RTN, 1, CODE, &["'link.bin' leads out of the folder"]);
    linked.passes(&[RTN, &["--allow-external-symlinks"]].concat());

    let through = bench(&[("location", "sub/secret")]);
    symlink(other.path(), through.path("sub")).unwrap();
    through.refused(RTN, 1, CODE, &["'sub/secret' leads out of the folder"]);

    let inside = bench(&[("location", "link.bin")]);
    symlink("w.bin", inside.path("link.bin")).unwrap();
    inside.passes(RTN);

    let pipe = bench(&[("location", "pipe")]);
    let made = std::process::Command::new("mkfifo").arg(pipe.path("pipe")).status();
    assert!(made.unwrap().success());
    pipe.refused(RTN, 1, CODE, &["'pipe' cannot be read: not a file"]);

    let device = bench(&[("location", "zero")]);
    symlink("/dev/zero", device.path("zero")).unwrap();
    device.refused(RTN, 1, CODE, &["leads out of the folder"]);
    let allowed = [RTN, &["--allow-external-symlinks"]].concat();
    device.refused(&allowed, 1, CODE, &["not a file"]);
}

/// A hard link is a name of a file like any other; package managers make them. It is read, and
/// what else has that name stays as it is.
#[test]
fn a_hard_link_is_read_and_never_written() {
    let bench = bench(&[("location", "hard.bin")]);
    std::fs::hard_link(bench.path("w.bin"), bench.path("hard.bin")).unwrap();
    bench.passes(RTN);
    assert!(bench.read("w.bin") == weight() && bench.read("hard.bin") == weight());
    // The output was a second name of something else.
    std::fs::remove_file(bench.path("out.onnx")).unwrap();
    bench.put("precious", b"precious");
    std::fs::hard_link(bench.path("precious"), bench.path("out.onnx")).unwrap();
    // What it is a name of does not read the data, which another model may.
    bench.refused(&[RTN, &["-f"]].concat(), 1, "QCC0106", &["'out.onnx' does not read it"]);
    std::fs::remove_file(bench.path("out.onnx.data")).unwrap();
    bench.passes(&[RTN, &["-f"]].concat());
    assert_eq!(bench.read("precious"), b"precious");
}

#[test]
fn the_output_never_takes_the_name_of_the_data() {
    let bench = Bench::new(&external(&[("location", "out.onnx.data")]));
    bench.put("out.onnx.data", &weight());
    let args = [RTN, &["-f"]].concat();
    bench.refused(&args, 1, "QCC0107", &["out.onnx.data", "help: choose another name"]);
}
