//! `burn man`: one manual page with every command.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;

/// The page, in roff.
pub(super) fn page() -> io::Result<Vec<u8>> {
    let mut root = Cli::command();
    // Gives every command its full name.
    root.build();
    let man = Man::new(root.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    commands(&root, &mut page)?;
    man.render_extra_section(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// Appends a section for each command that does something, however deep it stands.
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
        man.render_description_section(&mut part)?;
        man.render_synopsis_section(&mut part)?;
        man.render_options_section(&mut part)?;
        man.render_extra_section(&mut part)?;
        let name = command.get_bin_name().unwrap_or(command.get_name());
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
    }
    Ok(())
}
