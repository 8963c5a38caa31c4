#include "compute/tensor_group.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/counter_rng.h"
#include "tests/support/thread_world.h"

namespace tenax::compute {
namespace {

TEST(OrderedAllReduce, GivesEveryMemberTheSumsInGroupOrder) {
  const auto value = [](int member, std::size_t i) {
    return CounterRng(7, static_cast<std::uint64_t>(member)).normal(i);
  };
  for (int n = 1; n <= 4; ++n) {
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, std::size_t{17}, std::size_t{1000}}) {
      SCOPED_TRACE(testing::Message() << n << " members, " << size << " floats");
      std::vector<float> expected(size);
      for (std::size_t i = 0; i < size; ++i) {
        expected[i] = value(0, i);
        for (int m = 1; m < n; ++m) expected[i] += value(m, i);
      }
      test::run_world(n, [&](Communicator& comm) {
        const std::vector<int> ranks = test::all_ranks(n);
        OrderedAllReduce all_reduce(1000, n);
        for (int repeat = 0; repeat < 2; ++repeat) {
          std::vector<float> data(size);
          for (std::size_t i = 0; i < size; ++i) data[i] = value(comm.rank(), i);
          const Status status = all_reduce.run(comm, {ranks, comm.rank()}, 5, data);
          ASSERT_TRUE(status) << status.error().message;
          EXPECT_EQ(data, expected);
        }
      });
    }
  }
}

TEST(OrderedAllReduce, OfSomeOfTheMembersItWasMadeForFitsItsWorkspace) {
  test::run_world(3, [&](Communicator& comm) {
    OrderedAllReduce all_reduce(50, 3);
    std::vector<float> data(50, 1.0f);
    const std::vector<int> ranks = {0, 1};
    if (comm.rank() < 2) {
      ASSERT_TRUE(all_reduce.run(comm, {ranks, comm.rank()}, 5, data));
      EXPECT_EQ(data, std::vector<float>(50, 2.0f));
    }
    const std::vector<int> all = test::all_ranks(3);
    EXPECT_TRUE(barrier(comm, {all, comm.rank()}, 6));
  });
}

TEST(TensorGroup, KeepsTheErrorOfAnAbortedSumUntilItIsUsedAnew) {
  test::run_world(2, [&](Communicator& comm) {
    TensorGroup group(test::all_ranks(2), comm.rank(), 64);
    group.use(comm);
    std::vector<float> data(64, 1.0f);
    group.all_reduce(data);
    EXPECT_TRUE(group.status());
    comm.abort("enough");
    group.all_reduce(data);
    ASSERT_FALSE(group.status());
    EXPECT_EQ(group.status().error().code, ErrorCode::kAborted);
    const std::vector<float> garbage = data;
    group.all_reduce(data);  // nothing is sent any more
    EXPECT_EQ(data, garbage);
    group.use(comm);
    EXPECT_TRUE(group.status());
  });
}

}  // namespace
}  // namespace tenax::compute
