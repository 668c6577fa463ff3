"""Completion of words that hold a colon or an equals sign, such as ``--dataset=local:hopper-medium-v0``.

Bash breaks words at the characters of ``COMP_WORDBREAKS`` and replaces what follows the last of them. click takes these
pieces for words. This script gives the line as it is, and takes from each answer what stands already, as
``__ltrim_colon_completions`` of bash-completion does.
"""

from __future__ import annotations

import os

from click import shell_completion

SOURCE = """\
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} type value
    local word=${line##*[[:space:]]}
    local last=${word##*["$COMP_WORDBREAKS"]}
    local stands=${word:0:${#word}-${#last}}
    stands=${stands#--*=}
    COMPREPLY=()
    for completion in $(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1"); do
        IFS=, read -r type value <<< "$completion"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$stands"}") ;;
        esac
        [[ $value == *= ]] && compopt -o nospace
    done
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@shell_completion.add_completion_class
class Bash(shell_completion.BashComplete):
    """click's, given the line up to the cursor."""

    source_template = SOURCE

    def get_completion_args(self) -> tuple[list[str], str]:
        """The whole words of the line after the program, and the one that is not yet whole."""
        line = os.environ["COMP_WORDS"]
        words = shell_completion.split_arg_string(line)
        begun = words.pop() if not line[-1:].isspace() else ""
        return words[1:], begun


@shell_completion.add_completion_class
class Zsh(shell_completion.ZshComplete):
    """click's, which leaves an option and its equals sign as they stand."""

    source_template = (
        shell_completion.ZshComplete.source_template
        .replace("    for type", "    compset -P 1 '--*='\n    for type", 1)
        .replace("compadd -U ", "compadd ")
    )  # fmt: skip
