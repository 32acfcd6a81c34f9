use super::*;

/// What [`stringify`] makes of a line, or why it is not JSON.
fn rewritten(line: &[u8]) -> Result<String, JsonError> {
    Document::default().parse(trim_js(line)).map(|value| value.to_string())
}

#[test]
fn a_small_line_is_written_as_it_was_read() {
    let line = br#"{"v":1,"kind":"turn","record":{"a":[1,2.5,"x",true,false,null,{},[]]}}"#;
    assert_eq!(rewritten(line), Ok(String::from_utf8_lossy(line).into_owned()));
}
