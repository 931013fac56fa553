#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "client/commands/commands.h"

namespace sbora::client {
namespace {

/// The words that may follow a path of verbs ("jobs submit"; "" for the program itself).
struct Words {
  std::string path;
  std::vector<std::string> verbs;
  std::vector<std::string> flags;
};

void Collect(const CLI::App& app, const std::string& path, std::vector<Words>& out) {
  Words words{.path = path, .verbs = {}, .flags = {}};
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) words.flags.push_back("--" + name);
  }
  const auto verbs = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* verb : verbs) words.verbs.push_back(verb->get_name());
  out.push_back(std::move(words));
  for (const CLI::App* verb : verbs) {
    Collect(*verb, path.empty() ? verb->get_name() : path + " " + verb->get_name(), out);
  }
}

std::string Paths(const std::vector<Words>& all) {
  std::vector<std::string> paths;
  for (const Words& words : all) paths.push_back(words.path);
  return fmt::format("|{}|", fmt::join(paths, "|"));
}

/// Shell case branches: path -> words.
std::string CaseTable(const std::vector<Words>& all) {
  std::string out;
  for (const Words& words : all) {
    out += fmt::format("    '{}') choices='{} {}' ;;\n", words.path, fmt::join(words.verbs, " "),
                       fmt::join(words.flags, " "));
  }
  return out;
}

/// The global flags follow every path, since they are taken anywhere.
std::string BashScript(const std::vector<Words>& all) {
  return fmt::format(R"(# bash completion of sbora-client. Use: source <(sbora-client completion bash)
_sbora_client() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" path='' word choices=''
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case '{}' in *"|${{path:+$path }}$word|"*) path="${{path:+$path }}$word" ;; esac
  done
  case "$path" in
{}  esac
  COMPREPLY=($(compgen -W "$choices {}" -- "$current"))
  if [ ${{#COMPREPLY[@]}} -eq 0 ]; then COMPREPLY=($(compgen -f -- "$current")); fi
}}
complete -o filenames -F _sbora_client sbora-client
)",
                     Paths(all), CaseTable(all), fmt::join(all.front().flags, " "));
}

std::string ZshScript(const std::vector<Words>& all) {
  return fmt::format(R"(#compdef sbora-client
# zsh completion of sbora-client. Use: source <(sbora-client completion zsh)
_sbora_client() {{
  local place='' word choices=''
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    case '{}' in *"|${{place:+$place }}$word|"*) place="${{place:+$place }}$word" ;; esac
  done
  case "$place" in
{}  esac
  compadd -- ${{=choices}} {}
  _files
}}
compdef _sbora_client sbora-client
)",
                     Paths(all), CaseTable(all), fmt::join(all.front().flags, " "));
}

std::string FishScript(const std::vector<Words>& all) {
  std::string out = "# fish completion of sbora-client. Use: sbora-client completion fish | source\n";
  for (const Words& words : all) {
    std::string condition = "__fish_use_subcommand";
    if (!words.path.empty()) {
      condition.clear();
      std::string rest = words.path + " ";
      while (!rest.empty()) {
        const size_t space = rest.find(' ');
        condition += (condition.empty() ? "" : "; and ") + ("__fish_seen_subcommand_from " + rest.substr(0, space));
        rest.erase(0, space + 1);
      }
    }
    for (const std::string& verb : words.verbs) {
      const std::string once =
          words.path.empty() ? ""
                             : fmt::format("; and not __fish_seen_subcommand_from {}", fmt::join(words.verbs, " "));
      out += fmt::format("complete -c sbora-client -f -n '{}{}' -a {}\n", condition, once, verb);
    }
    for (const std::string& flag : words.flags) {
      const std::string everywhere = words.path.empty() ? "" : fmt::format(" -n '{}'", condition);
      out += fmt::format("complete -c sbora-client{} -l {}\n", everywhere, flag.substr(2));
    }
  }
  return out;
}

struct ShellFlag {
  std::string shell;
};

}  // namespace

void AddCompletion(const CommandRoot& root) {
  root.Verb<ShellFlag>(
      root.app, "completion", "A completion script for bash, zsh or fish",
      [](CLI::App& app, ShellFlag& flags) {
        app.add_option("SHELL", flags.shell, "bash, zsh or fish")
            ->required()
            ->check(CLI::IsMember({"bash", "zsh", "fish"}));
      },
      [&app = root.app](CommandContext& context, const ShellFlag& flags) -> CommandResult {
        std::vector<Words> all;
        Collect(app, "", all);
        context.out() << (flags.shell == "bash"  ? BashScript(all)
                          : flags.shell == "zsh" ? ZshScript(all)
                                                 : FishScript(all));
        return ExitCode::kOk;
      });
}

}  // namespace sbora::client
