// The rules on this tree, and on planted trees, where each must find what was planted.
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

#include "unit/tree_rules.hpp"

namespace {

namespace fs = std::filesystem;
using tree_rules::Violations;

std::string joined(const Violations& violations) {
  std::string text;
  for (const std::string& violation : violations) text += violation + "\n";
  return text;
}

/// A tree in a temporary folder of its own, removed at the end.
class PlantedTree {
 public:
  PlantedTree() {
    std::string name = (fs::temp_directory_path() / "weightcast-tree-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder: " + name);
    root_ = name;
  }
  PlantedTree(const PlantedTree&) = delete;
  PlantedTree& operator=(const PlantedTree&) = delete;
  ~PlantedTree() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }

  void write(const fs::path& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  const fs::path& root() const { return root_; }

 private:
  fs::path root_;
};

TEST(SourceTreeTest, IncludesOnlyPointUp) {
  ASSERT_GT(tree_rules::count_cpp_files(WEIGHTCAST_SOURCE_ROOT), 10u) << WEIGHTCAST_SOURCE_ROOT;

  EXPECT_EQ(joined(tree_rules::check_includes(WEIGHTCAST_SOURCE_ROOT)), "");
}

TEST(SourceTreeTest, EveryFileIsBuilt) {
  EXPECT_EQ(joined(tree_rules::check_listed(WEIGHTCAST_SOURCE_ROOT)), "");
}

TEST(SourceTreeTest, HoldsNoUnfinishedWork) {
  EXPECT_EQ(joined(tree_rules::check_words(WEIGHTCAST_SOURCE_ROOT)), "");
}

struct Arrow {
  const char* file;
  const char* include;
};

void PrintTo(const Arrow& arrow, std::ostream* out) { *out << arrow.file << " " << arrow.include; }

class ForbiddenArrowTest : public testing::TestWithParam<Arrow> {};

TEST_P(ForbiddenArrowTest, IsFound) {
  PlantedTree tree;
  tree.write(GetParam().file,
             std::string("#pragma once\n  #  include ") + GetParam().include + "\n");

  const Violations found = tree_rules::check_includes(tree.root());

  ASSERT_EQ(found.size(), 1u) << joined(found);
  EXPECT_EQ(found[0].find(std::string(GetParam().file) + ":2: includes "), 0u) << found[0];
}

INSTANTIATE_TEST_SUITE_P(
    Planted, ForbiddenArrowTest,
    testing::Values(
        Arrow{"src/base/a.hpp", "\"plan/b.hpp\""}, Arrow{"src/plan/a.hpp", "\"codec/b.hpp\""},
        Arrow{"src/protocol/a.cpp", "\"staging/b.hpp\""},
        Arrow{"src/protocol/a.cpp", "\"proto/weightcast.pb.h\""},
        Arrow{"src/plan/wire.cpp", "\"proto/weightcast.pb.h\""},
        Arrow{"src/transport/a.cpp", "\"protocol/b.hpp\""},
        Arrow{"src/stream/a.cpp", "\"publisher/b.hpp\""},
        Arrow{"src/subscriber/a.cpp", "\"publisher/b.hpp\""},
        Arrow{"src/publisher/a.cpp", "\"subscriber/b.hpp\""},
        Arrow{"src/keys/a.cpp", "\"stream/b.hpp\""}, Arrow{"src/base/a.cpp", "<CLI/CLI.hpp>"},
        Arrow{"src/cli/a.cpp", "\"base/clock.hpp\""}, Arrow{"src/base/a.cpp", "\"clock.hpp\""},
        Arrow{"src/base/a.cpp", "\"../plan/b.hpp\""}, Arrow{"src/a.cpp", "<vector>"},
        Arrow{"src/unknown/a.cpp", "<vector>"}, Arrow{"src/base/a.cpp", "<ATen/core/Tensor.h>"},
        Arrow{"src/base/a.cpp", "<torch/torch.h>"},
        Arrow{"src/base/a.cpp", "<boost/interprocess/mapped_region.hpp>"},
        Arrow{"src/staging/a.cpp", "<zmq.hpp>"},
        Arrow{"src/staging/a.cpp", "<cuda_runtime.h>"},
        Arrow{"src/transport/a.cu", "<cuda_bf16.h>"}, Arrow{"src/transport/a.cpp", "<nccl.h>"},
        Arrow{"tests/gpu/a.cpp", "<cuda_runtime_api.h>"}, Arrow{"bench/a.cpp", "<cuda.h>"},
        Arrow{"plugin/torch/weightcast/a.hpp", "<cuda_runtime.h>"},
        Arrow{"src/stream/a.cpp", "<google/protobuf/message_lite.h>"},
        Arrow{"src/base/a.cpp", "<nlohmann/json.hpp>"},
        Arrow{"src/base/a.cpp", "<toml.hpp>"}, Arrow{"src/base/a.cpp", "\"config/b.hpp\""},
        Arrow{"src/config/a.cpp", "\"plan/b.hpp\""},
        Arrow{"src/base/a.cpp", "<weightcast/no_such_header.hpp>"},
        Arrow{"include/weightcast/a.hpp", "<unistd.h>"},
        Arrow{"include/weightcast/a.hpp", "\"base/clock.hpp\""},
        Arrow{"include/weightcast/a.hpp", "<boost/optional.hpp>"},
        Arrow{"plugin/torch/weightcast/a.hpp", "<torch/torch.h>"},
        Arrow{"plugin/torch/weightcast/a.hpp", "\"base/clock.hpp\""},
        Arrow{"plugin/torch/weightcast/a.hpp", "<zmq.hpp>"},
        Arrow{"examples/rl/a.cpp", "\"stream/loop.hpp\""}));

TEST(PlantedTreeTest, AllowedArrowsPass) {
  PlantedTree tree;
  tree.write("include/weightcast/status.hpp", "#pragma once\n#include <string>\n");
  tree.write("src/stream/a.cpp",
             "#include \"stream/a.hpp\"\n#include <sys/mman.h>\n#include <unistd.h>\n"
             "#include <zmq.hpp>\n#include <weightcast/status.hpp>\n"
             "#include \"protocol/b.hpp\"\n#include \"staging/c.hpp\"\n");
  tree.write("src/protocol/wire.cpp",
             "#include \"proto/weightcast.pb.h\"\n#include <google/protobuf/arena.h>\n");
  tree.write("src/config/toml.cpp", "#include <toml.hpp>\n#include \"base/config.hpp\"\n");
  tree.write("src/driver/a.cu", "#include <cuda_runtime.h>\n#include <unistd.h>\n");
  tree.write("src/staging/slab.cpp", "#include <boost/interprocess/mapped_region.hpp>\n");
  tree.write("plugin/torch/weightcast/hooked.hpp",
             "#include <ATen/core/Tensor.h>\n#include <weightcast/status.hpp>\n");

  EXPECT_EQ(joined(tree_rules::check_includes(tree.root())), "");
  EXPECT_EQ(tree_rules::count_cpp_files(tree.root()), 7u);
}

TEST(PlantedTreeTest, ForgottenFilesAreFound) {
  PlantedTree tree;
  tree.write("tests/unit/meson.build", "files('kept_test.cpp', 'sub/deep_test.cpp')");
  tree.write("tests/unit/kept_test.cpp", "");
  tree.write("tests/unit/sub/deep_test.cpp", "");
  tree.write("tests/unit/lost_test.cpp", "");
  tree.write("src/base/lost.cpp", "");
  tree.write("include/weightcast/lost.hpp", "");

  const Violations found = tree_rules::check_listed(tree.root());

  ASSERT_EQ(found.size(), 3u) << joined(found);
  EXPECT_EQ(found[0].find("src/base/lost.cpp"), 0u);
  EXPECT_EQ(found[1].find("include/weightcast/lost.hpp"), 0u);
  EXPECT_EQ(found[2].find("tests/unit/lost_test.cpp"), 0u);
}

TEST(PlantedTreeTest, ForbiddenWordsAreFound) {
  PlantedTree tree;
  tree.write("src/base/a.cpp",
             "int x;\n// TO"
             "DO: all\n");
  tree.write("docs/a.md",
             "see /wo"
             "rk/main\n");
  tree.write("tests/unit/a_test.cpp",
             "std::this_thread::sleep"
             "_for(1s);\n");
  tree.write("src/base/b.cpp",
             "std::this_thread::sleep"
             "_for(1s);  // a retry, not a test\n");

  const Violations found = tree_rules::check_words(tree.root());

  ASSERT_EQ(found.size(), 3u) << joined(found);
  EXPECT_EQ(found[0].find("src/base/a.cpp:2: "), 0u) << found[0];
  EXPECT_EQ(found[1].find("tests/unit/a_test.cpp:1: "), 0u) << found[1];
  EXPECT_EQ(found[2].find("docs/a.md:1: "), 0u) << found[2];
}

}  // namespace
