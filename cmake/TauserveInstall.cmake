# `cmake --install BUILD [--component client|server]`: the C++ client for find_package(Tauserve), and the programs.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Tauserve)
set_target_properties(tauserve_client PROPERTIES EXPORT_NAME client)
set_target_properties(tauserve_proto PROPERTIES EXPORT_NAME proto)
install(TARGETS tauserve_client tauserve_proto EXPORT Tauserve COMPONENT client
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT Tauserve FILE TauserveTargets.cmake NAMESPACE Tauserve:: DESTINATION ${package} COMPONENT client)
install(FILES clients/cpp/client.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/tauserve COMPONENT client)
install(DIRECTORY ${CMAKE_BINARY_DIR}/proto/generated/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT client
        FILES_MATCHING PATTERN "*.h")
configure_package_config_file(cmake/TauserveConfig.cmake.in ${CMAKE_BINARY_DIR}/TauserveConfig.cmake
                              INSTALL_DESTINATION ${package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/TauserveConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/TauserveConfig.cmake ${CMAKE_BINARY_DIR}/TauserveConfigVersion.cmake
        DESTINATION ${package} COMPONENT client)
# Not the server's: it loads a server from elsewhere, and an image of the server builds without it.
install(TARGETS tauserve-bench RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT client)
# The programs look for what they load beside themselves.
install(TARGETS tauserve tauserve-cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT server)
install(TARGETS tauserve_sentencepiece LIBRARY DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT server)
if(TAUSERVE_CUDA)
  install(TARGETS tauserve_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT server)
  # For where no CUDA toolkit is installed; half a gigabyte, so that it has to be asked for.
  file(REAL_PATH ${TAUSERVE_CUBLASLT} cublaslt)
  install(FILES ${cublaslt} DESTINATION ${CMAKE_INSTALL_BINDIR} RENAME libcublasLt.so.13 COMPONENT cublaslt
          EXCLUDE_FROM_ALL)
endif()
