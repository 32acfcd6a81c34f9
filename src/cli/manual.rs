//! `burn man`: one manual page with every command.

use std::io;

use clap::Command;
use clap_mangen::Man;

/// The page of a command line, in roff.
pub(super) fn page(mut root: Command) -> io::Result<Vec<u8>> {
    // Building gives every command its full name.
    root.build();
    let man = Man::new(root.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    page.extend_from_slice(b".SH SYNOPSIS\n\\fBburn\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]...\n");
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    commands(&root, &mut page)?;
    page.extend_from_slice(ENDING.as_bytes());
    page.extend_from_slice(b".SH NOTES\n");
    notes(&root, &mut page);
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// Sections about every command.
const ENDING: &str = "\
.SH EXIT STATUS
.TP
0
Done; also when standard output was closed early.
.TP
1
Failed, or a check found a fault. Standard error says what, with file, byte offset and remedy.
.TP
2
Wrong usage. Nothing was touched.
.SH ENVIRONMENT
.TP
RELAYBURN_HOME
The home: the directory of the ledger and of the files that are derived from the ledger. Default: .relayburn in the user's home directory.
.TP
RELAYBURN_CONTENT_STORE
Whether \\fBburn ingest\\fR keeps texts of prompts and answers: \\fIfull\\fR (default), \\fIhash-only\\fR or \\fIoff\\fR. Overrides content.store of config.json.
.TP
RELAYBURN_CONTENT_TTL_DAYS
How many days \\fBburn state prune\\fR keeps content, or \\fIforever\\fR. Overrides content.retentionDays of config.json.
.TP
RELAYBURN_HOOK_MS
How many milliseconds \\fBburn ingest \\-\\-hook\\fR may work after its start. Default: 30; 0 sets no limit.
.TP
RELAYBURN_STORAGE
Only \\fIfile\\fR: \\fBburn ingest\\fR ends with an error when it has any other value.
.TP
RELAYBURN_PROGRESS
0 turns progress off. Progress appears only on a terminal.
.TP
NO_COLOR
Any value turns colours off. Colours appear only on a terminal.
.TP
TZ
The time zone of dates, where no \\-\\-tz is given. Default: the zone of the system.
.PP
The variables that name the logs of agents are in the notes of \\fBburn ingest\\fR.
";

/// How a command is called, every value by its name.
fn synopsis(name: &str, command: &Command) -> String {
    let mut text = format!(".SH SYNOPSIS\n\\fB{name}\\fR");
    let words = |arg: &clap::Arg| {
        let values = arg.get_value_names().unwrap_or_default().iter().map(|value| format!("\\fI{value}\\fR"));
        let values = values.collect::<Vec<_>>().join(" ");
        let repeated = match arg.get_action() {
            clap::ArgAction::Append | clap::ArgAction::Count => "...",
            _ => "",
        };
        let call = match (arg.get_long(), arg.get_action().takes_values()) {
            (None, _) => values,
            (Some(long), true) => format!("\\fB--{long}\\fR {values}"),
            (Some(long), false) => format!("\\fB--{long}\\fR"),
        };
        if arg.is_required_set() { format!(" {call}{repeated}") } else { format!(" [{call}]{repeated}") }
    };
    let is_own = |arg: &&clap::Arg| !["help", "version"].contains(&arg.get_id().as_str());
    text.extend(command.get_opts().filter(is_own).map(words));
    text.extend(
        command
            .get_arguments()
            .filter(|arg| !arg.is_positional() && !arg.get_action().takes_values())
            .filter(is_own)
            .map(words),
    );
    text.extend(command.get_positionals().map(words));
    text.replace('-', "\\-") + "\n"
}

/// Appends the text that follows the options in a command's help. Indented lines are neither filled nor hyphenated.
fn notes(command: &Command, page: &mut Vec<u8>) {
    let Some(text) = command.get_after_long_help().or(command.get_after_help()) else { return };
    let mut is_filled = true;
    for line in text.to_string().lines() {
        let fills = !line.starts_with(' ');
        if fills != is_filled && !line.is_empty() {
            page.extend_from_slice(if fills { b".fi\n" } else { b".nf\n" });
            is_filled = fills;
        }
        let escaped =
            line.replace('\\', "\\(rs").replace('-', "\\-").replace('\'', "\\(aq").replace('…', "...");
        // A line of its own must not begin as a request does; an empty one ends the paragraph.
        match escaped.as_str() {
            "" => page.extend_from_slice(if is_filled { b".PP\n" } else { b"\n" }),
            text => page.extend_from_slice(format!("\\&{text}\n").as_bytes()),
        }
    }
    if !is_filled {
        page.extend_from_slice(b".fi\n");
    }
}

/// Appends a section for each command that can be run, at any depth.
fn commands(parent: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    for command in parent.get_subcommands().filter(|command| command.get_name() != "help") {
        if command.has_subcommands() {
            commands(command, page)?;
        }
        if command.is_subcommand_required_set() {
            continue;
        }
        let man = Man::new(command.clone());
        let mut part = Vec::new();
        let name = command.get_bin_name().unwrap_or(command.get_name());
        man.render_description_section(&mut part)?;
        part.extend_from_slice(synopsis(name, command).as_bytes());
        man.render_options_section(&mut part)?;
        page.extend_from_slice(format!(".SS {name}\n").as_bytes());
        // Sections of a page of its own become paragraphs of this one.
        for line in String::from_utf8_lossy(&part).lines() {
            match line.strip_prefix(".SH ") {
                Some(title) => page.extend_from_slice(format!(".PP\n\\fI{title}\\fR\n.br\n").as_bytes()),
                None => {
                    page.extend_from_slice(line.as_bytes());
                    page.push(b'\n');
                }
            }
        }
        if command.get_after_help().is_some() {
            page.extend_from_slice(b".PP\n");
            notes(command, page);
        }
    }
    Ok(())
}
