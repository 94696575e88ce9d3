use proptest::prelude::*;
use serde_json::json;

use super::*;

fn rendered(template: &str) -> String {
    let data = json!({
        "ID": "abc", "Names": ["a", "b"], "Count": 3, "Empty": "", "Labels": {"x": "1", "y.z": "2"},
        "Config": {"Env": ["A=1"], "Cmd": null}, "Running": true,
    });
    Template::parse(template)
        .and_then(|template| template.render(&data))
        .unwrap_or_else(|error| error.to_string())
}

#[test]
fn what_people_write() {
    for (template, expected) in [
        ("{{.ID}}", "abc"),
        ("{{ .ID | upper }} x", "ABC x"),
        ("{{json .Names}}", r#"["a","b"]"#),
        ("{{.Names}}", "[a b]"),
        ("{{.Labels}}", "map[x:1 y.z:2]"),
        ("{{join .Names \", \"}}", "a, b"),
        ("{{range .Names}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range $i, $n := .Names}}{{$i}}={{$n}};{{end}}", "0=a;1=b;"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{if .Empty}}a{{else if eq .Count 3}}b{{else}}c{{end}}", "b"),
        ("{{if and .Running (gt .Count 2)}}yes{{end}}", "yes"),
        ("{{with .Config}}{{index .Env 0}}{{end}}", "A=1"),
        ("{{index .Labels \"y.z\"}}", "2"),
        ("{{.Label \"x\"}}", "1"),
        ("{{.Labels.nothing}}", "<no value>"),
        ("{{len .Names}}", "2"),
        ("{{printf \"%-5s|%3d|%q\" .ID .Count .ID}}", "abc  |  3|\"abc\""),
        ("{{slice .ID 0 2}}", "ab"),
        ("{{title .ID}}{{println}}", "Abc\n"),
        ("{{$x := .ID}}{{$x}}{{$.ID}}", "abcabc"),
        ("a {{- .ID -}} b", "aabcb"),
        ("{{/* nothing }} */}}x", "x"),
        ("{{(index .Names 1)}}", "b"),
        ("{{not .Running}}{{or .Empty .ID}}", "falseabc"),
        ("{{\"}}\"}}", "}}"),
        ("{{split \"a,b\" \",\"}}", "[a b]"),
        ("{{.ID}}{{end}}", "format: unexpected {{end}}"),
        ("{{.Nothing}}", "format: there is no field .Nothing"),
        ("{{.ID", "format: an action is not closed by }}"),
        ("{{nothing .ID}}", "format: there is no function nothing"),
        ("{{if .ID}}", "format: {{if}} lacks its {{end}}"),
    ] {
        assert_eq!(rendered(template), expected, "{template}");
    }
}

#[test]
fn lists_in_each_format() {
    let rows = [
        json!({"ID": "1", "Size": "2MB"}),
        json!({"ID": "22", "Size": "3kB"}),
    ];
    let columns = [("ID", "IMAGE ID"), ("Size", "SIZE")];
    let of = |format: &str| list(format, &columns, &rows).unwrap();
    assert_eq!(of("table"), "IMAGE ID   SIZE\n1          2MB\n22         3kB\n");
    assert_eq!(
        of("json"),
        "{\"ID\":\"1\",\"Size\":\"2MB\"}\n{\"ID\":\"22\",\"Size\":\"3kB\"}\n"
    );
    assert_eq!(of("{{.ID}}:{{.Size}}"), "1:2MB\n22:3kB\n");
    assert_eq!(
        of("table {{.Size}}\\t{{.ID}}"),
        "SIZE   IMAGE ID\n2MB    1\n3kB    22\n"
    );
}

proptest! {
    #[test]
    fn no_template_is_too_odd(text in "[{}.$ |()\"`a-cA-C:=,0-9-]{0,60}") {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.render(&json!({"A": [1, {"b": "c"}], "B": {"a": null}}));
        }
    }
}
