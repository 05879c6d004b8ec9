// Streams a story: tell ADDRESS "Once upon a time"
#include <cstdlib>
#include <iostream>

#include "tauserve/client.h"

namespace v1 = tauserve::client::v1;

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: tell ADDRESS BEGINNING\n";
    return EXIT_FAILURE;
  }
  tauserve::client::Client client(argv[1], std::chrono::minutes(1));
  v1::GenerateStreamRequest request;
  request.mutable_input()->set_text(argv[2]);
  request.mutable_input()->mutable_sampling()->set_temperature(0);
  request.mutable_input()->mutable_stopping()->set_max_new_tokens(40);
  std::cout << argv[2];
  const grpc::Status status =
      client.GenerateStream(request, [](const v1::GenerateStreamResponse& event) {
        std::cout << event.delta().text() << std::flush;
        if (event.has_completed()) {
          std::cout << "\n[" << event.completed().usage().completion_tokens() << " tokens]\n";
        }
      });
  if (!status.ok()) std::cerr << status.error_message() << "\n";
  return status.ok() ? EXIT_SUCCESS : EXIT_FAILURE;
}
