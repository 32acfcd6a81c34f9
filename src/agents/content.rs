//! Writes the records of the content sidecars: what was asked, thought, called and answered.

use super::js::RecordText;

/// The message that content belongs to.
pub(super) struct ContentHead<'c> {
    pub source: &'static str,
    pub session: &'c [u8],
    pub message: &'c [u8],
    pub ts: &'c [u8],
}

impl ContentHead<'_> {
    /// Begins a record. The caller appends the member with the content.
    pub(super) fn begin(&self, role: &str, kind: &str) -> RecordText {
        let mut record = RecordText::of(self.source);
        record.text("sessionId", self.session);
        record.text("messageId", self.message);
        record.text("ts", self.ts);
        record.text("role", role.as_bytes());
        record.text("kind", kind.as_bytes());
        record
    }

    /// A text, or a text of a thought.
    pub(super) fn text(&self, role: &str, kind: &str, text: &[u8]) -> Vec<u8> {
        let mut record = self.begin(role, kind);
        record.text("text", text);
        record.finish()
    }

    /// A call of a tool. `input` is JSON text.
    pub(super) fn tool_use(&self, id: &[u8], name: &[u8], input: &[u8]) -> Vec<u8> {
        let mut record = self.begin("assistant", "tool_use");
        record.object("toolUse", |call| {
            call.text("id", id);
            call.text("name", name);
            call.raw("input", input);
        });
        record.finish()
    }

    /// The result of a call. `content` is JSON text.
    pub(super) fn tool_result(&self, call: &[u8], content: &[u8], is_error: bool) -> Vec<u8> {
        let mut record = self.begin("tool_result", "tool_result");
        record.object("toolResult", |result| {
            result.text("toolUseId", call);
            result.raw("content", content);
            result.flag_if("isError", is_error);
        });
        record.finish()
    }
}
